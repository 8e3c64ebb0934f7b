"""A diagonal Gaussian over the chunk, in the spec's range: what actor-critic methods learn from
states.

As it is, with the mean squashed into the range (Kostrikov et al., 2021, arXiv:2110.06169), or with
samples squashed into it (Haarnoja et al., 2018, arXiv:1812.05905).

B windows, T steps, K actions per chunk, A action dimensions, W width. Units: the spec's range is
[-1, 1].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.base import Head, HeadConfig
from vla.models.heads.continuous import check_temperature, chunk_mean
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
EDGE = 1 - 1e-5
"""Squashed actions beyond it are moved to it for the density, which is zero or infinite at the edge
itself."""
LogStd = Annotated[float, Field(ge=-20, le=5)]


@register("heads", "gaussian")
class GaussianConfig(HeadConfig):
    """A Gaussian of independent action dimensions: exact likelihoods, differentiable samples, one
    linear layer."""

    type: Literal["gaussian"] = "gaussian"
    squash: Literal["none", "mean", "full"] = "mean"
    """none: as it is. mean: tanh keeps the mean inside the range. full: tanh keeps all samples
    inside it, and the density is corrected for that. Without `full`, samples beyond the range are
    cut off."""
    deviation: Literal["global", "state"] = "global"
    """global: standard deviations are parameters, the same in all states. state: they are computed
    from the state."""
    log_std: tuple[LogStd, LogStd] = (-5.0, 2.0)
    """Least and greatest logarithm of a standard deviation, of the range [-1, 1]; learning begins
    in the middle."""

    @model_validator(mode="after")
    def _ordered(self) -> GaussianConfig:
        if not self.log_std[0] < self.log_std[1]:
            raise ValueError(
                f"log_std: the least must be below the greatest, got {list(self.log_std)}"
            )
        return self

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return 1

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> GaussianHead:
        return GaussianHead(self, tokenizer, spec, width)


class GaussianHead(Head):
    """A linear layer from the one state that it reads."""

    action_middle: Tensor
    action_half: Tensor

    def __init__(
        self,
        config: GaussianConfig,
        tokenizer: ActionTokenizer,
        spec: Spec,
        width: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        self.chunk_shape = (tokenizer.chunk, spec.action_dim)
        numbers = tokenizer.chunk * spec.action_dim
        if config.deviation == "state":
            self.out = nn.Linear(width, 2 * numbers)  # means, then deviations
        else:
            self.out = nn.Linear(width, numbers)
            self.spread = nn.Parameter(torch.zeros(self.chunk_shape))
        low = torch.tensor(spec.action_low)
        high = torch.tensor(spec.action_high)
        self.register_buffer("action_middle", (low + high) / 2, persistent=False)
        self.register_buffer("action_half", (high - low) / 2, persistent=False)

    def forward(self, hidden: Float[Tensor, "B T 1 W"]) -> DiagonalGaussian:
        values = self.out(hidden[:, :, 0].to(self.out.weight.dtype)).float()
        if self.config.deviation == "state":
            mean, spread = values.chunk(2, dim=-1)
            mean = mean.unflatten(-1, self.chunk_shape)
            spread = spread.unflatten(-1, self.chunk_shape)
        else:
            mean = values.unflatten(-1, self.chunk_shape)
            spread = self.spread.float()
        low, high = self.config.log_std
        # a smooth bound: beyond a hard one there is no gradient that leads back
        log_std = low + (high - low) * spread.sigmoid()
        if self.config.squash == "full":
            return SquashedGaussianActions(mean, log_std, self.action_middle, self.action_half)
        if self.config.squash == "mean":
            mean = mean.tanh()
        return GaussianActions(mean, log_std, self.action_middle, self.action_half)


class DiagonalGaussian(ABC):
    """What both kinds of Gaussian can do.

    Args:
        mean: (B, T, K, A), units; before tanh if samples are squashed.
        log_std: (B, T, K, A) or (K, A), logarithm of the standard deviation.
        middle, half: (A,), of the range, robot units.
    """

    def __init__(self, mean: Tensor, log_std: Tensor, middle: Tensor, half: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std
        self.middle = middle
        self.half = half

    @abstractmethod
    def _log_density(self, actions: Tensor) -> Tensor:
        """(..., B, T, K, A) in units, of each number of the actions in robot units."""

    @abstractmethod
    def _inside(self, x: Tensor) -> Tensor:
        """What was drawn, or the mean -> units inside [-1, 1]."""

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Negative log density of the chunk's valid actions in units, per number; 0 if there are
        none."""
        return -chunk_mean(self._log_density(actions).mean(-1), action_mask)

    def log_prob(
        self,
        actions: Float[Tensor, "*n B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "*n B T"]:
        """Log density of the chunk's valid actions in robot units; also of several chunks for each
        step at once."""
        # per robot unit, not per unit: the change of variables is half the range
        density_BTK = self._log_density(actions).sum(-1) - self.half.log().sum()
        if action_mask is not None:
            density_BTK = density_BTK.where(action_mask, 0.0)
        return density_BTK.sum(-1)

    def number_log_probs(self, actions: Float[Tensor, "B T K A"]) -> Float[Tensor, "B T K A"]:
        """Log likelihood of each number of actions that were executed: log density in units, or
        log probability where the range cut off what was drawn."""
        return self._log_density(actions)

    def number_log_stds(self) -> Float[Tensor, "B T K A"]:
        """Logarithm of each number's standard deviation, units, before any squashing."""
        return self.log_std.expand_as(self.mean)

    def at(self, temperature: float) -> Self:
        """What `sample` draws from at this temperature, above 0."""
        log_std = self.log_std + 0.5 * math.log(temperature)
        return type(self)(self.mean, log_std, self.middle, self.half)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The mean inside the range. For squashed samples it is the median, not the greatest
        density."""
        return self._robot(self._inside(self.mean))

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` multiplies the variances, 0 gives the mode.

        Raises ValueError if the temperature is negative.
        """
        check_temperature(temperature)
        if temperature == 0:
            return self.mode()
        x = self._draw(generator, (), math.sqrt(temperature))
        return self._robot(self._inside(x)).detach()

    def rsample(
        self,
        generator: torch.Generator | None = None,
        *,
        count: int | None = None,
    ) -> Float[Tensor, "*n B T K A"]:
        """A random chunk for each step, or `count` of them in front, differentiable in mean and
        deviation."""
        x = self._draw(generator, () if count is None else (count,), 1.0)
        return self._robot(self._inside(x))

    def _draw(
        self,
        generator: torch.Generator | None,
        count: tuple[int, ...],
        share: float,
    ) -> Tensor:
        noise = torch.randn(
            (*count, *self.mean.shape),
            generator=generator,
            device=self.mean.device,
            dtype=self.mean.dtype,
        )
        return self.mean + share * self.log_std.exp() * noise

    def _normal(self, x: Tensor) -> Tensor:
        """Log density of the normal distributions at x."""
        return (
            -0.5 * ((x - self.mean) * (-self.log_std).exp()).square() - self.log_std - HALF_LOG_2PI
        )

    def _robot(self, unit: Tensor) -> Tensor:
        return self.middle + self.half * unit

    def _unit(self, actions: Tensor) -> Tensor:
        return (actions - self.middle) / self.half


class GaussianActions(DiagonalGaussian):
    """Independent Gaussians. Samples beyond the range are cut off, as they are when executed.

    Densities and entropies are those before that; `number_log_probs` are those of what is executed.
    """

    def number_log_probs(self, actions: Float[Tensor, "B T K A"]) -> Float[Tensor, "B T K A"]:
        """See `DiagonalGaussian.number_log_probs`.

        Source: Fujita and Maeda, 2018, "Clipped action policy gradient".
        """
        unit = self._unit(actions)
        std = self.log_std.exp()
        # All draws beyond the range are executed as its edge. The density there would hold a mean
        # that lies beyond back, though it executes the very same.
        above = torch.special.log_ndtr((self.mean - 1) / std)
        below = torch.special.log_ndtr((-1 - self.mean) / std)
        inside = self._normal(unit)
        return torch.where(unit >= EDGE, above, torch.where(unit <= -EDGE, below, inside))

    def entropy(self) -> Float[Tensor, "B T"]:
        """Differential entropy (nats) of the chunk in robot units."""
        each = (self.log_std + HALF_LOG_2PI + 0.5 + self.half.log()).sum((-1, -2))
        # a global deviation has no axes B and T
        return each.expand(self.mean.shape[:2])

    def _log_density(self, actions: Tensor) -> Tensor:
        return self._normal(self._unit(actions))

    def _inside(self, x: Tensor) -> Tensor:
        return x.clamp(-1.0, 1.0)


class SquashedGaussianActions(DiagonalGaussian):
    """tanh of independent Gaussians.

    Their entropy has no closed form; the mean of `-log_prob` over samples estimates it.
    """

    _last: tuple[Tensor, Tensor] | None = None

    def rsample(
        self,
        generator: torch.Generator | None = None,
        *,
        count: int | None = None,
    ) -> Float[Tensor, "*n B T K A"]:
        """See `DiagonalGaussian.rsample`."""
        # kept for `_log_density` of these very samples: near the edge tanh cannot be inverted
        x = self._draw(generator, () if count is None else (count,), 1.0)
        actions = self._robot(x.tanh())
        self._last = (actions, x)
        return actions

    def _log_density(self, actions: Tensor) -> Tensor:
        if self._last is not None and self._last[0] is actions:
            x = self._last[1]
        else:
            x = self._unit(actions).clamp(-EDGE, EDGE).atanh()
        # log(1 - tanh(x)^2), without cancellation
        return self._normal(x) - 2 * (math.log(2) - x - F.softplus(-2 * x))

    def _inside(self, x: Tensor) -> Tensor:
        return x.tanh()


__all__ = [
    "DiagonalGaussian",
    "GaussianActions",
    "GaussianConfig",
    "GaussianHead",
    "SquashedGaussianActions",
]
