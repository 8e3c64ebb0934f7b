"""How near runs of cosine coefficients are to each other, and how much each counts.

An id of FAST is a run of rounded coefficients. If another id of equally many coefficients stands in
its place, all other coefficients keep their meaning. The transform is orthonormal, so the distance
of the two decoded chunks is that of the two runs. An id of another length moves what follows to
other coefficients: from it there is no distance.

B chunks, C coefficients, D places, V ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from vla.tokenizers.base import LEAST_WEIGHT


def run_targets(
    runs: Sequence[Sequence[int]],
    vocab_size: int,
    *,
    smoothing: float,
) -> Float[Tensor, "V V"]:
    """The training target for each true id, a row, over the ids of equally many coefficients.

    Args:
        runs: coefficients of the first ids; the others, such as padding, are their own targets.
        smoothing: standard deviation, in steps of rounding.
    """
    targets_VV = torch.eye(vocab_size)
    ids_of_length: dict[int, list[int]] = {}
    for index, run in enumerate(runs):
        ids_of_length.setdefault(len(run), []).append(index)
    for ids in ids_of_length.values():
        values = torch.tensor([list(runs[index]) for index in ids], dtype=torch.float32)
        distances = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
        rows = torch.tensor(ids)
        targets_VV[rows[:, None], rows] = (-0.5 * (distances / smoothing).square()).softmax(-1)
    return targets_VV


def run_weights(
    lengths_BD: Int64[Tensor, "B D"],
    weights_C: Float[Tensor, " C"],
) -> Float[Tensor, "B D"]:
    """Weight of each place: the sum over the coefficients of its run.

    At least `LEAST_WEIGHT` of the heaviest coefficient; 0 at places without coefficients.

    Args:
        lengths_BD: coefficients of each id; those of a row add up to C.
        weights_C: of each coefficient.
    """
    sums = F.pad(weights_C.cumsum(0), (1, 0))  # of the first n coefficients
    ends_BD = lengths_BD.cumsum(1)
    weights_BD = sums[ends_BD] - sums[ends_BD - lengths_BD]
    least = LEAST_WEIGHT * float(weights_C.max()) if len(weights_C) else 0.0
    return weights_BD.clamp(min=least).where(lengths_BD > 0, 0.0)


__all__ = ["run_targets", "run_weights"]
