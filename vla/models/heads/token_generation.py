"""What drawing one token after the other needs to know beside the network.

N sequences, R hidden states read per step, D tokens per chunk, L <= D of them that are more than
padding, V ids, H width of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Given sequences, cut to the places that hold more than padding.

    Attributes:
        ids: (N, L), L <= D.
        allowed: (N, L, V) or (L, V), the ids that may follow those before; None if all may.
        is_token: (N, L), False at places where only padding may stand.
    """

    ids: Int64[Tensor, "N L"]
    allowed: Bool[Tensor, "*N L V"] | None
    is_token: Bool[Tensor, "N L"]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of every token.

    Attributes:
        base: (N, R, H), the states that guidance leads away from.
        weight: 0 for the tokens of `base`, 1 for those of the states themselves.
    """

    base: Float[Tensor, "N R H"]
    weight: float

    def extrapolated(self, logits: Tensor, base: Tensor) -> Tensor:
        """Base log probabilities + weight * (log probabilities - base log probabilities)."""
        from_base = base.log_softmax(-1)
        return from_base + self.weight * (logits.log_softmax(-1) - from_base)


def draw_ids(
    logits: Float[Tensor, "N V"],
    temperature: float,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, " N"]:
    """One id of each row; the most likely ones at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    probs_NV = (logits / temperature).softmax(-1)
    return torch.multinomial(probs_NV, 1, generator=generator).squeeze(-1)


__all__ = ["Guidance", "Places", "draw_ids"]
