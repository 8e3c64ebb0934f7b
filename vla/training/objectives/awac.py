"""AWAC (Nair et al., 2020, "AWAC: accelerating online reinforcement learning with offline datasets")."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.weighted_bc import WeightedBCConfig
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "awac")
class AWACConfig(CriticObjectiveConfig):
    """Q of the policy itself by temporal differences; imitation weighted by exp(beta * (Q(s, a) - Q(s, the policy's own)))."""

    type: Literal["awac"] = "awac"
    beta: float = Field(default=1.0, gt=0)
    """Inverse temperature, 1 / lambda of the paper."""
    max_weight: float = Field(default=20.0, ge=1)
    """Greatest weight."""
    standardise: bool = False
    """Take advantages in units of their running standard deviation."""
    samples: int = Field(default=1, ge=1)
    """Own actions that the policy's value is averaged over."""

    def build(self, policy: Policy) -> ActorCritic:
        value = TDConfig(**self.critics, samples=self.samples)
        weighing = WeightedBCConfig(
            beta=self.beta, max_weight=self.max_weight, standardise=self.standardise
        )
        return self.join(policy, value, weighing)


__all__ = ["AWACConfig"]
