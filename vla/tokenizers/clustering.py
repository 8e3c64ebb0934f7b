"""K-means in torch: k-means++ starts (Arthur and Vassilvitskii, 2007), Lloyd's steps, one result per seed.

N points, C centres, F features.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ROWS_AT_ONCE = 1 << 14


def nearest(points: Float[Tensor, "N F"], centres: Float[Tensor, "C F"]) -> Int64[Tensor, " N"]:
    """Index of the nearest centre of each point, the first where several are equally near."""
    # the exact formula: the one by matrix products loses small differences, and under autocast nearly all of them
    distances = [
        torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        for rows in points.split(ROWS_AT_ONCE)
    ]
    return (
        torch.cat(distances)
        if distances
        else torch.zeros(0, dtype=torch.long, device=points.device)
    )


def kmeans(
    points: Float[Tensor, "N F"],
    count: int,
    *,
    iterations: int = 20,
    seed: int = 0,
) -> Float[Tensor, "C F"]:
    """`count` centres. Where there are fewer distinct points than that, some centres are equal."""
    generator = torch.Generator().manual_seed(seed)
    centres = _spread_out(points, count, generator)
    squares_N1 = points.square().sum(1, keepdim=True)
    for _ in range(iterations):
        distances_NC = squares_N1 - 2 * points @ centres.T + centres.square().sum(1)
        least_N, owner_N = distances_NC.min(1)
        sizes_C = torch.bincount(owner_N, minlength=count)
        sums_CF = torch.zeros_like(centres).index_add_(0, owner_N, points)
        moved = torch.where(sizes_C[:, None] > 0, sums_CF / sizes_C.clamp(min=1)[:, None], centres)
        if empty := (sizes_C == 0).nonzero().flatten().tolist():
            farthest = least_N.topk(min(len(empty), len(points))).indices
            moved[empty[: len(farthest)]] = points[
                farthest
            ]  # a centre without points helps where the error is greatest
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _spread_out(points_NF: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points drawn one after the other, in proportion to the squared distance from those drawn before."""
    first = int(torch.randint(len(points_NF), (1,), generator=generator))
    chosen, least_N = [first], torch.full((len(points_NF),), torch.inf)
    for _ in range(count - 1):
        least_N = torch.minimum(least_N, (points_NF - points_NF[chosen[-1]]).square().sum(1))
        # by the cumulative sum: torch.multinomial takes no more than 2^24 points
        sums_N = least_N.double().cumsum(0)
        draw = torch.rand(1, generator=generator, dtype=torch.float64) * sums_N[-1]
        chosen.append(min(int(torch.searchsorted(sums_N, draw, right=True)), len(points_NF) - 1))
    return points_NF[chosen]


__all__ = ["kmeans", "nearest"]
