"""Formulas of objectives: pure functions.

Shape letters: B batch, T time steps, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of `values` where `mask` is True; 0 where it is nowhere True.

    Values under the mask may be NaN: they are selected away, not multiplied by zero.
    """
    return values.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def action_l1(
    predicted_BTKA: Float[Tensor, "B T K A"],
    actions_BTKA: Float[Tensor, "B T K A"],
    action_mask_BTK: Bool[Tensor, "B T K"],
) -> Float[Tensor, "B T A"]:
    """Absolute error of each action dimension in robot units, mean over the valid actions of the chunk.

    Steps without any valid action give 0.
    """
    error_BTKA = (predicted_BTKA - actions_BTKA).abs().where(action_mask_BTK[..., None], 0.0)
    return error_BTKA.sum(2) / action_mask_BTK.sum(2).clamp(min=1)[..., None]
