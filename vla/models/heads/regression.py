"""One chunk, learned by absolute error, one read state per action (OpenVLA-OFT: Kim et al., 2025,
arXiv:2502.19645).

B windows, T steps, K actions per chunk, A action dimensions, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.heads.base import Head, HeadConfig
from vla.models.heads.continuous import MLP, ActionScale, check_temperature, chunk_mean
from vla.tokenizers.base import ActionTokenizer
from vla.tokenizers.chunks import Quantiles
from vla.types import Spec


@register("heads", "regression")
class RegressionConfig(HeadConfig):
    """One chunk by absolute error: fast and exact if there is one way to act, in between if there
    are several."""

    type: Literal["regression"] = "regression"
    error: Literal["l1", "l2"] = "l1"
    """Absolute error (its minimum is the median of what was done) or squared error (the mean)."""
    quantiles: Quantiles = (0.01, 0.99)
    """Lower and upper quantile of the data that are scaled to -1 and 1; values beyond are not
    clipped."""
    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the hidden layers."""
    depth: int = Field(default=2, ge=1, le=1000)
    """Hidden layers."""

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return tokenizer.chunk

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> RegressionHead:
        return RegressionHead(self, tokenizer, spec, width)


class RegressionHead(Head):
    """The same small network from each read state to its action."""

    def __init__(
        self,
        config: RegressionConfig,
        tokenizer: ActionTokenizer,
        spec: Spec,
        width: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        self.net = MLP(width, config.hidden, spec.action_dim, config.depth)
        self.scale = ActionScale(spec, "range", config.quantiles)

    def fit(self, actions: Float[Tensor, "N A"], *, lengths: Sequence[int] | None = None) -> None:
        self.scale.fit(actions)

    def forward(self, hidden: Float[Tensor, "B T K W"]) -> RegressedActions:
        return RegressedActions(self.net(hidden), self.scale, self.config.error)


@dataclass(frozen=True)
class RegressedActions:
    """A point, not a distribution: `sample` gives it at every temperature.

    Attributes:
        unit: (B, T, K, A), units of the data.
        scale: from these to robot units.
        error: l1 or l2.
    """

    unit: Float[Tensor, "B T K A"]
    scale: ActionScale
    error: Literal["l1", "l2"]

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Mean error of the chunk's valid actions in units of the data; 0 for a chunk without
        any."""
        difference = self.unit - self.scale.to_unit(actions)
        error = difference.abs() if self.error == "l1" else difference.square()
        return chunk_mean(error.mean(-1), action_mask)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The chunk."""
        return self.scale.to_robot(self.unit)

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
        check_temperature(temperature)
        return self.mode()


__all__ = ["RegressedActions", "RegressionConfig", "RegressionHead"]
