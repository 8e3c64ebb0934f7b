"""The contract of action heads: hidden states of a trunk -> a distribution over action chunks.

B windows, T steps, R hidden states read per step, W their width, K actions per chunk, A action
dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vla.common.renamed import accept_former_members
from vla.config import Config, UserError
from vla.tokenizers.base import ActionTokenizer
from vla.types import ActionDistribution, Spec


class HeadError(UserError):
    """Head and tokenizer do not go together."""


class Head(nn.Module, ABC):
    """Reads `num_readouts` hidden states of every step; every policy can have any head.

    Attributes:
        num_readouts: R.
        tokenizer: between chunks of actions and ids; heads without tokens use its `chunk` alone.
    """

    num_readouts: int
    tokenizer: ActionTokenizer

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_former_members(cls, {"use": "set_tokenizer"})

    def set_tokenizer(self, tokenizer: ActionTokenizer) -> None:
        """Replaces the tokenizer that the head was built with by a fitted one of the same sizes.

        A checkpoint is loaded in this order: the policy is built from its config, then gets what
        was fitted to data.
        """
        self.tokenizer = tokenizer

    @abstractmethod
    def forward(self, hidden: Float[Tensor, "B T R W"]) -> ActionDistribution:
        """The distribution over the chunks of every step."""

    def complete_weights(self, weights: dict[str, Tensor], prefix: str) -> None:
        """Adds to the tensors of a checkpoint what those of former versions lack; by default
        nothing.

        Args:
            weights: name -> tensor of the whole policy, changed in place.
            prefix: of the head's own names, such as `head.`.
        """

    def fit(
        self,
        actions: Float[Tensor, "N A"],
        *,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Fits what the head has to know of the data; nothing by default.

        Args:
            actions: N steps, the episodes one after the other, robot units.
            lengths: number of steps of each episode; None if there is one.
        """


def complete_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Adds to the tensors of a checkpoint of `module` what those of former versions lack.

    Args:
        weights: name -> tensor, changed in place.
    """
    for name, part in module.named_modules():
        if isinstance(part, Head):
            part.complete_weights(weights, f"{name}." if name else "")


class HeadConfig(Config, ABC):
    """Base of the configs registered under "heads"; a subclass adds `type: Literal["name"] =
    "name"`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_former_members(cls, {"reads": "num_readouts"})

    @abstractmethod
    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        """R, the hidden states per step that the head will read.

        Asked of the config, not of the head: the trunk is built first, and has a slot for each of
        them.
        """

    @abstractmethod
    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> Head:
        """A head for chunks of `tokenizer.chunk` actions of `spec`, over hidden states of `width`.

        Raises:
            HeadError: head and tokenizer do not go together.
        """


__all__ = ["Head", "HeadConfig", "HeadError", "complete_weights"]
