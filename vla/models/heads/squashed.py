"""One bounded chunk: a linear layer and tanh, over the actions' range (Chen et al., 2021, Decision
Transformer).

B windows, T steps, K actions per chunk, A action dimensions, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.base import Head, HeadConfig
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec


@register("heads", "squashed")
class SquashedConfig(HeadConfig):
    """One chunk within the spec's range, by squared or absolute error: fast, but averages several
    ways to act."""

    type: Literal["squashed"] = "squashed"
    error: Literal["l2", "l1"] = "l2"
    """Training error in units of half an action dimension's range: squared (Decision Transformer)
    or absolute."""

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return 1

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> SquashedHead:
        return SquashedHead(self, tokenizer, spec, width)


class SquashedHead(Head):
    """tanh of a linear layer, from the one state that it reads."""

    action_middle: Tensor
    action_half: Tensor

    def __init__(
        self,
        config: SquashedConfig,
        tokenizer: ActionTokenizer,
        spec: Spec,
        width: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        self.out = nn.Linear(width, tokenizer.chunk * spec.action_dim)
        low = torch.tensor(spec.action_low)
        high = torch.tensor(spec.action_high)
        # they follow from the spec, so they are not saved
        self.register_buffer("action_middle", (low + high) / 2, persistent=False)
        self.register_buffer("action_half", (high - low) / 2, persistent=False)

    def forward(self, hidden: Float[Tensor, "B T 1 W"]) -> SquashedActions:
        values = self.out(hidden[:, :, 0].to(self.out.weight.dtype))
        # tanh in float32: in bfloat16 the actions would take a few hundred values
        unit_BTKA = values.float().tanh().unflatten(-1, (self.tokenizer.chunk, -1))
        return SquashedActions(unit_BTKA, self.action_middle, self.action_half, self.config.error)


@dataclass(frozen=True)
class SquashedActions:
    """A point, not a distribution: `sample` gives it at every temperature.

    Attributes:
        unit: (B, T, K, A) in (-1, 1).
        middle, half: (A,), of the range, robot units.
        error: l2 or l1.
    """

    unit: Float[Tensor, "B T K A"]
    middle: Float[Tensor, " A"]
    half: Float[Tensor, " A"]
    error: Literal["l2", "l1"]

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Mean error of the chunk's valid actions; 0 for a chunk without any."""
        difference = self.unit - (actions - self.middle) / self.half
        error = difference.square() if self.error == "l2" else difference.abs()
        error_BTK = error.mean(-1)
        if action_mask is None:
            return error_BTK.mean(-1)
        return (error_BTK * action_mask).sum(-1) / action_mask.sum(-1).clamp(min=1)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The chunk."""
        return self.middle + self.half * self.unit

    def rsample(self, generator: torch.Generator | None = None) -> Float[Tensor, "B T K A"]:
        """The chunk, differentiable in the network."""
        return self.mode()

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """The chunk. Raises ValueError if `temperature` is negative."""
        if temperature < 0:
            raise ValueError(f"temperature must be 0 (the mode) or positive, got {temperature}")
        return self.mode()


__all__ = ["SquashedActions", "SquashedConfig", "SquashedHead"]
