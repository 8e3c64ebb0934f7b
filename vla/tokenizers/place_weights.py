"""How much each place of a chunk counts in a loss, by the variance that it explains.

D places.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vla.tokenizers.base import LEAST_WEIGHT


def weights_by_variance(
    explained: Float[Tensor, " D"],
    *,
    least: float = LEAST_WEIGHT,
) -> Float[Tensor, " D"]:
    """Weights of mean 1 in proportion to `explained`; none below `least` of the heaviest.

    Equal weights if nothing is explained.
    """
    heaviest = explained.max() if len(explained) else explained.new_zeros(())
    if not bool(heaviest > 0):
        return torch.ones_like(explained)
    weights = explained.clamp(min=least * float(heaviest))
    return weights / weights.mean()


__all__ = ["weights_by_variance"]
