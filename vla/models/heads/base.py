"""The contract of action heads: hidden states of a trunk -> a distribution over action chunks.

B windows, T steps, R hidden states read per step, W their width, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vla.config import Config, UserError
from vla.tokenizers.base import ActionTokenizer
from vla.types import ActionDistribution, Spec


class HeadError(UserError):
    """Head and tokenizer do not go together."""


class Head(nn.Module, ABC):
    """Reads `reads` hidden states of every step; every policy can have any head.

    Attributes:
        reads: R.
        tokenizer: what tells chunks of actions in ids; heads without tokens look at its `chunk` alone.
    """

    reads: int
    tokenizer: ActionTokenizer

    def use(self, tokenizer: ActionTokenizer) -> None:
        """Takes a tokenizer of the same sizes in place of the one that the head was built with: a fitted one, when a
        checkpoint is loaded."""
        self.tokenizer = tokenizer

    @abstractmethod
    def forward(self, hidden: Float[Tensor, "B T R W"]) -> ActionDistribution:
        """The distribution over the chunks of every step."""

    def fit(self, actions: Float[Tensor, "N A"], *, lengths: Sequence[int] | None = None) -> None:
        """Fits what the head needs to know of the data; here nothing.

        Args:
            actions: N steps of episodes side by side, robot units.
            lengths: steps of each episode; None where there is one.
        """


class HeadConfig(Config, ABC):
    """Base of the configs registered under "heads"; a subclass adds `type: Literal["name"] = "name"`."""

    @abstractmethod
    def reads(self, tokenizer: ActionTokenizer) -> int:
        """R, the hidden states per step that the head will read: the trunk, which is built before, has slots for them."""

    @abstractmethod
    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> Head:
        """A head for chunks of `tokenizer.chunk` actions of `spec`, over hidden states of `width`.

        Raises:
            HeadError: head and tokenizer do not go together.
        """


__all__ = ["Head", "HeadConfig", "HeadError"]
