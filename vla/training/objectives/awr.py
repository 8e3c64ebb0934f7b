"""Advantage-weighted regression (Peng et al., 2019, "Advantage-weighted regression: simple and scalable off-policy RL")."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from vla.config import register
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.weighted_bc import WeightedBCConfig
from vla.training.offline_rl.ignored_options import refuse_unused
from vla.training.offline_rl.values.monte_carlo import UNUSED, MonteCarloConfig
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "awr")
class AWRConfig(CriticObjectiveConfig):
    """Imitation weighted by exp(beta * advantage over V), V being what the data's own behaviour brings."""

    type: Literal["awr"] = "awr"
    advantage: Literal["monte_carlo", "td"] = "monte_carlo"
    """From the episodes' returns, or from a Q of the data's behaviour (SARSA), which is blind to luck."""
    beta: float = Field(default=3.0, gt=0)
    """Inverse temperature, of advantages in units of their standard deviation."""
    max_weight: float = Field(default=20.0, ge=1)
    """Greatest weight."""

    @model_validator(mode="after")
    def _used(self) -> AWRConfig:
        if self.advantage == "monte_carlo":
            refuse_unused(
                self, UNUSED, "advantage: monte_carlo learns no Q; drop it, or set advantage: td"
            )
        return self

    def build(self, policy: Policy) -> ActorCritic:
        value: Any = MonteCarloConfig(**self.critics)
        if self.advantage == "td":
            value = TDConfig(**self.critics, next_actions="data")
        weighing = WeightedBCConfig(beta=self.beta, max_weight=self.max_weight, standardise=True)
        return self.join(policy, value, weighing)


__all__ = ["AWRConfig"]
