"""A mixture of Gaussians over the whole chunk, or over each of its actions (Bishop, 1994, Mixture
density networks).

B windows, T steps, R hidden states read per step, W their width, K actions per chunk, A action
dimensions, M components, G mixtures per chunk (1 or K) over K' = K / G actions each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.base import Head, HeadConfig
from vla.models.heads.continuous import MLP, ActionScale, check_temperature, of_chosen
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec


@register("heads", "gaussian_mixture", former=("mixture",))
class MixtureConfig(HeadConfig):
    """A mixture of Gaussians: several ways to act, exact likelihoods, one pass."""

    type: Literal["gaussian_mixture"] = "gaussian_mixture"
    components: int = Field(default=5, ge=1, le=10000)
    """Gaussians of a mixture."""
    over: Literal["chunk", "action"] = "chunk"
    """chunk: a component is a way to do the whole chunk. action: every action of the chunk has a
    mixture of its own, drawn independently, read from a hidden state of its own."""
    min_std: float = Field(default=0.01, gt=0)
    """Least standard deviation of a component, in units of the data's."""
    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the hidden layer."""

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return 1 if self.over == "chunk" else tokenizer.chunk  # G

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> MixtureHead:
        return MixtureHead(self, tokenizer, spec, width)


class MixtureHead(Head):
    """A small network from each read state to weights, means and deviations."""

    def __init__(
        self,
        config: MixtureConfig,
        tokenizer: ActionTokenizer,
        spec: Spec,
        width: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        self.shape = (config.components, tokenizer.chunk // self.num_readouts, spec.action_dim)
        self.values = math.prod(self.shape)
        self.net = MLP(width, config.hidden, config.components + 2 * self.values)
        self.scale = ActionScale(spec)
        # components that start alike get the same gradients, and would stay alike for long
        with torch.no_grad():
            first_mean = config.components
            nn.init.normal_(self.net.out.bias[first_mean : first_mean + self.values])

    def fit(self, actions: Float[Tensor, "N A"], *, lengths: Sequence[int] | None = None) -> None:
        self.scale.fit(actions)

    def forward(self, hidden: Float[Tensor, "B T R W"]) -> MixtureActions:
        sizes = [self.config.components, self.values, self.values]
        logits, mean, width = self.net(hidden).split(sizes, dim=-1)
        # a smooth floor: below a hard one there is no gradient that leads back
        std = F.softplus(width) + self.config.min_std
        return MixtureActions(
            logits.log_softmax(-1),
            mean.unflatten(-1, self.shape),
            std.unflatten(-1, self.shape),
            self.scale,
        )


@dataclass(frozen=True)
class MixtureActions:
    """G independent mixtures of diagonal Gaussians.

    Attributes:
        log_weights: (B, T, G, M).
        mean, std: (B, T, G, M, K', A), units of the data.
        scale: from these to robot units.
    """

    log_weights: Float[Tensor, "B T G M"]
    mean: Float[Tensor, "B T G M Ks A"]
    std: Float[Tensor, "B T G M Ks A"]
    scale: ActionScale

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Negative log density of the chunk's valid actions, per number, in units of the data; 0 if
        there are none."""
        K, A = actions.shape[-2:]
        count = K if action_mask is None else action_mask.sum(-1).clamp(min=1)
        return -self._log_density(actions, action_mask) / (count * A)

    def log_prob(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Log density of the chunk's valid actions in robot units."""
        count = actions.shape[-2] if action_mask is None else action_mask.sum(-1)
        # the change of variables from units of the data to robot units
        return self._log_density(actions, action_mask) - count * self.scale.scale.log().sum()

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The mean of the most likely component; overlapping components may be denser elsewhere."""
        return self._chunk(self._of(self.mean, self.log_weights.argmax(-1)))

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` 0 gives the mode.

        The log weights are divided by the temperature, the variances multiplied by it. Raises
        ValueError if it is negative.
        """
        check_temperature(temperature)
        if temperature == 0:
            return self.mode()
        weights_BTGM = (self.log_weights / temperature).softmax(-1)
        # multinomial takes a matrix: every mixture is a row of its own
        drawn = torch.multinomial(weights_BTGM.flatten(0, -2), 1, generator=generator)
        component_BTG = drawn.view(weights_BTGM.shape[:-1])
        mean = self._of(self.mean, component_BTG)
        std = self._of(self.std, component_BTG)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return self._chunk(mean + math.sqrt(temperature) * std * noise)

    def _log_density(self, actions: Tensor, action_mask: Tensor | None) -> Tensor:
        """Log density (B, T) of the chunk's valid actions, per unit of the data."""
        G = self.mean.shape[2]
        steps = self.mean.shape[4]
        unit = (
            self.scale.to_unit(actions).unflatten(2, (G, steps)).unsqueeze(3)
        )  # (B, T, G, 1, K', A)
        z = (unit - self.mean) / self.std
        log_p = -0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        if action_mask is None:
            return torch.logsumexp(self.log_weights + log_p.sum((-1, -2)), -1).sum(-1)
        mask_BTGK = action_mask.unflatten(2, (G, steps))
        log_p = log_p.where(mask_BTGK[:, :, :, None, :, None], 0.0)
        density_BTG = torch.logsumexp(self.log_weights + log_p.sum((-1, -2)), -1)
        # a mixture without a valid action has density 1 up to rounding: it adds nothing
        return density_BTG.where(mask_BTGK.any(-1), 0.0).sum(-1)

    def _of(self, values: Tensor, component_BTG: Tensor) -> Tensor:
        """The values (B, T, G, K', A) of one component of each mixture."""
        return of_chosen(values, component_BTG)

    def _chunk(self, unit_BTGKA: Tensor) -> Tensor:
        return self.scale.to_robot(unit_BTGKA.flatten(2, 3))


__all__ = ["MixtureActions", "MixtureConfig", "MixtureHead"]
