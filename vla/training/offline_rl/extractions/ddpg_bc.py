"""The policy climbs Q through its own actions, held to the data by imitation (and stirred by entropy).

Fujimoto and Gu, 2021 (TD3+BC); with `bc: 0` and an entropy target the actor of CQL (Kumar et al., 2020; Haarnoja et al., 2018).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import masked_mean
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    imitation,
    require,
    require_q,
)
from vla.training.offline_rl.values.base import Moment, ValueLearner

Temperature = Annotated[float, Field(ge=0)] | Literal["auto"]


@register("extractions", "ddpg_bc")
class DDPGBCConfig(ExtractionConfig):
    """Minimises -Q of the policy's own actions / mean |Q| + `bc` * loss of imitation."""

    type: Literal["ddpg_bc"] = "ddpg_bc"
    bc: float = Field(default=0.4, ge=0)
    """Weight of imitation beside Q: 1 / lambda of the paper, whose 2.5 is 0.4 here."""
    q: Literal["least", "first"] = "least"
    """Which of the critics is climbed: at each action the least of them, or the first alone (TD3)."""
    normalise: bool = True
    """Divide Q by its mean absolute value in the batch, so that `bc` means the same whatever the rewards' size."""
    temperature: Temperature = 0.0
    """Weight of the entropy: of samples, by log_prob. `auto` learns it, towards an entropy of -(numbers of a chunk), of actions
    in units in which their range is [-1, 1]."""
    every: int = Field(default=1, ge=1)
    """The policy learns at every so many steps (TD3: 2)."""

    def build(self, policy: Policy, value: ValueLearner) -> DDPGBC:
        require_q(value, "ddpg_bc")
        ranges = zip(policy.spec.action_low, policy.spec.action_high, strict=True)
        log_half = policy.chunk * sum(math.log((high - low) / 2) for low, high in ranges)
        return DDPGBC(self, policy.chunk * policy.spec.action_dim, log_half)


class DDPGBC(Extraction):
    """See the config. The metric `entropy` (nats) is of the chunk in units in which the actions' range is [-1, 1]; of tokens it
    is that of their ids.

    Args:
        dimensions: numbers of a chunk.
        log_half: sum of the logarithms of half their ranges: entropies in robot units are greater by it.
    """

    steps: Tensor

    def __init__(self, config: DDPGBCConfig, dimensions: int, log_half: float = 0.0) -> None:
        super().__init__()
        self.config, self.target_entropy, self.log_half = config, -float(dimensions), log_half
        if config.temperature == "auto":
            self.log_temperature = nn.Parameter(torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def loss(self, now: Moment, value: ValueLearner) -> tuple[Tensor, dict[str, Tensor]]:
        if self.training and self.rests:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                # whose averaging waits for every parameter
                own = sum(p.sum() for p in self.parameters())
                return 0.0 * (masked_mean(imitation(now), now.batch.mask) + own), {}
            return now.features.new_zeros(()), {}
        require(
            now.actions,
            "rsample",
            "ddpg_bc",
            "use policy.head: {type: gaussian}, squashed, regression or categorical",
        )
        mask = now.batch.mask
        actions = now.actions.rsample()  # type: ignore[attr-defined]
        q_BT = value.q(now.features, actions, of=self.config.q)
        size = (
            masked_mean(q_BT.detach().abs(), mask).clamp(min=1e-6) if self.config.normalise else 1.0
        )
        loss = -masked_mean(q_BT, mask) / size
        metrics = {"q_policy": masked_mean(q_BT.detach(), mask)}
        if self.config.bc:
            imitated = masked_mean(imitation(now), mask)
            loss = loss + self.config.bc * imitated
            metrics["bc_loss"] = imitated.detach()
        if self.config.temperature:
            loss = loss + self._entropy(now, actions, mask, metrics)
        return loss, metrics

    @property
    def rests(self) -> bool:
        return self.config.every > 1 and bool((int(self.steps) + 1) % self.config.every)

    def after_step(self) -> None:
        self.steps += 1

    def _entropy(
        self, now: Moment, actions: Tensor, mask: Tensor, metrics: dict[str, Tensor]
    ) -> Tensor:
        require(
            now.actions,
            "log_prob",
            "ddpg_bc.temperature",
            "set temperature: 0, or policy.head: {type: gaussian, squash: full}",
        )
        log_prob = masked_mean(now.actions.log_prob(actions), mask)  # type: ignore[attr-defined]
        entropy = -log_prob.detach() - (0.0 if hasattr(now.actions, "tokens") else self.log_half)
        metrics["entropy"] = entropy
        if self.config.temperature != "auto":
            return self.config.temperature * log_prob
        temperature = self.log_temperature.exp()
        metrics["temperature"] = temperature.detach()
        return temperature.detach() * log_prob - temperature * (self.target_entropy - entropy)


__all__ = ["DDPGBC", "DDPGBCConfig", "Temperature"]
