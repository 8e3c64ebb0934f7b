"""Which ids may come next, so that a policy cannot emit a sequence that means nothing.

B sequences, V ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


class TokenGrammar(ABC):
    """Ids that may follow the ids before, place by place.

    It holds no state itself: many generations may share one.

    Attributes:
        pad_id: the only id after a finished chunk.
    """

    pad_id: int

    @abstractmethod
    def start(self, batch: int, device: torch.device | str) -> Tensor:
        """The state (batch, ...) before the first id. Raises TokenizerError if the tokenizer is not
        fitted."""

    @abstractmethod
    def allowed(self, state: Tensor, place: int) -> Bool[Tensor, "B V"]:
        """Ids that may stand at `place`, at least one in each row."""

    @abstractmethod
    def advance(self, state: Tensor, ids: Int64[Tensor, " B"], place: int) -> Tensor:
        """The state after the allowed `ids` at `place`."""

    @abstractmethod
    def finished(self, state: Tensor) -> Bool[Tensor, " B"]:
        """Sequences after which nothing but padding may follow."""


def masked_logits(logits: Float[Tensor, "... V"], allowed: Bool[Tensor, "... V"] | None) -> Tensor:
    """The logits, minus infinity for ids that are not allowed; None allows all. Shapes
    broadcast."""
    if allowed is None:
        return logits
    return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


__all__ = ["TokenGrammar", "masked_logits"]
