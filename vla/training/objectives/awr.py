"""Advantage-weighted regression (Peng et al., 2019, "Advantage-weighted regression: simple and scalable off-policy RL")."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from vla.config import register
from vla.models.critics import CriticConfig
from vla.models.policy import Policy
from vla.training.extractions.weighted_bc import WeightedBCConfig
from vla.training.objective import ObjectiveConfig
from vla.training.objectives.actor_critic import ActorCritic, Discount, build_actor_critic
from vla.training.values.monte_carlo import MonteCarloConfig
from vla.training.values.td import TDConfig


@register("objectives", "awr")
class AWRConfig(ObjectiveConfig):
    """Imitation weighted by exp(beta * advantage over V), V being what the data's own behaviour brings."""

    type: Literal["awr"] = "awr"
    advantage: Literal["monte_carlo", "td"] = "monte_carlo"
    """From the episodes' returns, or from a Q of the data's behaviour (SARSA), which is blind to luck."""
    beta: float = Field(default=3.0, gt=0)
    """Inverse temperature, of advantages in units of their standard deviation."""
    max_weight: float = Field(default=20.0, ge=1)
    """Greatest weight."""
    discount: Discount = 0.99
    """Per environment step."""
    critic: CriticConfig = CriticConfig()
    """Networks."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the values learn."""

    def build(self, policy: Policy) -> ActorCritic:
        value: Any = MonteCarloConfig(critic=self.critic)
        if self.advantage == "td":
            value = TDConfig(critic=self.critic, next_actions="data")
        weighing = WeightedBCConfig(beta=self.beta, max_weight=self.max_weight, standardise=True)
        return build_actor_critic(policy, value, weighing, discount=self.discount, warmup=self.warmup_steps)


__all__ = ["AWRConfig"]
