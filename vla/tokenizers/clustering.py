"""K-means in torch: k-means++ starts (Arthur and Vassilvitskii, 2007), Lloyd's steps, one result
per seed.

N points, C centres, F features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

ROWS_AT_ONCE = 1 << 14
LEAST_WIDTH = 1e-6
"""Of a soft choice among centres, in units of half the range."""


def nearest(points: Float[Tensor, "N F"], centres: Float[Tensor, "C F"]) -> Int64[Tensor, " N"]:
    """Index of the nearest centre of each point, the first if several are equally near."""
    indices = []
    for rows in points.split(ROWS_AT_ONCE):
        # the exact formula: the one by matrix products loses small differences, and under autocast
        # nearly all of them
        distances = torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist")
        indices.append(distances.argmin(1))
    if not indices:
        return torch.zeros(0, dtype=torch.long, device=points.device)
    return torch.cat(indices)


def soft_nearest(
    points: Float[Tensor, "N F"],
    centres: Float[Tensor, "C F"],
    *,
    width: float,
) -> Float[Tensor, "N C"]:
    """Softmax of -|point - centre|^2 / (2 width^2) over the centres; a width of 0 chooses the
    nearest."""
    # below what float32 resolves, every exponent would be infinite
    if width < LEAST_WIDTH:
        return F.one_hot(nearest(points, centres), len(centres)).to(points.dtype)
    distances_NC = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
    return (-0.5 * (distances_NC / width).square()).softmax(-1)


def kmeans(
    points: Float[Tensor, "N F"],
    count: int,
    *,
    iterations: int = 20,
    seed: int = 0,
) -> Float[Tensor, "C F"]:
    """`count` centres. If there are fewer distinct points than that, some centres are equal."""
    generator = torch.Generator().manual_seed(seed)
    centres = _spread_out(points, count, generator)
    squares_N1 = points.square().sum(1, keepdim=True)
    for _ in range(iterations):
        distances_NC = squares_N1 - 2 * points @ centres.T + centres.square().sum(1)
        least_N, owner_N = distances_NC.min(1)
        sizes_C = torch.bincount(owner_N, minlength=count)
        sums_CF = torch.zeros_like(centres).index_add_(0, owner_N, points)
        means_CF = sums_CF / sizes_C.clamp(min=1)[:, None]
        moved = torch.where(sizes_C[:, None] > 0, means_CF, centres)
        empty = (sizes_C == 0).nonzero().flatten().tolist()
        if empty:
            # a centre without points is of most use where the error is greatest
            farthest = least_N.topk(min(len(empty), len(points))).indices
            moved[empty[: len(farthest)]] = points[farthest]
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _spread_out(points_NF: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points drawn one after the other, in proportion to the squared distance from those drawn
    before."""
    N = len(points_NF)
    chosen = [int(torch.randint(N, (1,), generator=generator))]
    least_N = torch.full((N,), torch.inf)
    for _ in range(count - 1):
        distance_N = (points_NF - points_NF[chosen[-1]]).square().sum(1)
        least_N = torch.minimum(least_N, distance_N)
        # by the cumulative sum: torch.multinomial takes no more than 2^24 points
        sums_N = least_N.double().cumsum(0)
        draw = torch.rand(1, generator=generator, dtype=torch.float64) * sums_N[-1]
        index = int(torch.searchsorted(sums_N, draw, right=True))
        chosen.append(min(index, N - 1))  # if all distances are 0 the search ends behind the last
    return points_NF[chosen]


__all__ = ["kmeans", "nearest", "soft_nearest"]
