"""Imitation of each action by as much as it is better than usual: exp(beta * advantage).

Peng et al., 2019 (AWR); Nair et al., 2020 (AWAC); Kostrikov et al., 2022 (IQL).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import advantage_weights, effective_sample_size, masked_mean, masked_means
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.extractions.base import Extraction, ExtractionConfig, imitation
from vla.training.offline_rl.values.base import Moment, ValueLearner
from vla.training.offline_rl.values.none import NoValues

_RATE = 0.01  # of the running deviation: about the last hundred steps count


@register("extractions", "weighted_bc")
class WeightedBCConfig(ExtractionConfig):
    """The loss of imitation, weighted by exp(beta * advantage). One weight per step, shared by all its action tokens, so
    that every head can be used."""

    type: Literal["weighted_bc"] = "weighted_bc"
    beta: float = Field(default=3.0, gt=0)
    """Inverse temperature: 0 would imitate all alike."""
    max_weight: float = Field(default=100.0, ge=1)
    """Greatest weight."""
    standardise: bool = False
    """Divide advantages by their running standard deviation: beta then means the same whatever the rewards' size."""
    mean_weight: bool = False
    """Divide the weights by their running mean: the learning rate then means the same as in imitation."""

    def build(self, policy: Policy, value: ValueLearner) -> WeightedBC:
        """Raises ObjectiveError where there are no values to weigh by."""
        if isinstance(value, NoValues):
            raise ObjectiveError(
                "objective.extraction: weighted_bc without values weighs all alike; use extraction: {type: bc}"
            )
        return WeightedBC(self)


class WeightedBC(Extraction):
    """See the config. The running deviation and mean are those of one process each; they differ little."""

    deviation: Tensor
    mean: Tensor
    seen: Tensor

    def __init__(self, config: WeightedBCConfig) -> None:
        super().__init__()
        self.config = config
        for name in ("deviation", "mean", "seen"):
            self.register_buffer(name, torch.zeros(()))

    def loss(self, now: Moment, value: ValueLearner) -> tuple[Tensor, dict[str, Tensor]]:
        mask = now.batch.mask
        advantage = value.advantage(now)
        spread = masked_mean((advantage - masked_mean(advantage, mask)).square(), mask).sqrt()
        if self.training:
            self.seen += 1
        scaled = (
            advantage / self._running("deviation", spread) if self.config.standardise else advantage
        )
        weights = advantage_weights(
            scaled, beta=self.config.beta, max_weight=self.config.max_weight
        )
        used = (
            weights / self._running("mean", masked_mean(weights, mask))
            if self.config.mean_weight
            else weights
        )
        imitated = imitation(now)
        loss = masked_mean(used * imitated, mask)
        clipped = (weights >= self.config.max_weight * (1 - 1e-6)).float()
        told = {
            "bc_loss": imitated,
            "weight": weights,
            "weight_clipped": clipped,
            "advantage": advantage,
        }
        spread_and_size = {
            "advantage_deviation": spread,
            "weight_ess": effective_sample_size(weights, mask),
        }
        return loss, masked_means(told, mask) | spread_and_size

    @torch.no_grad()
    def _running(self, name: str, now: Tensor) -> Tensor:
        """The running mean of a number, moved in training by this one."""
        kept: Tensor = getattr(self, name)
        if self.training:
            rate = max(_RATE, 1 / float(self.seen))
            kept += rate * (now - kept)
        return kept.clamp(min=1e-6)


__all__ = ["WeightedBC", "WeightedBCConfig"]
