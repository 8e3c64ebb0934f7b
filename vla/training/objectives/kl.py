"""Policy improvement under a constraint to the data (Wu, Tucker and Nachum, 2019, BRAC)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.critics import CriticConfig
from vla.models.policy import Policy
from vla.training.extractions.kl import KLConfig
from vla.training.objective import ObjectiveConfig
from vla.training.objectives.actor_critic import ActorCritic, Discount, build_actor_critic
from vla.training.values.expectile import ExpectileConfig


@register("objectives", "kl")
class KLObjectiveConfig(ObjectiveConfig):
    """Q and V of IQL; the policy makes its own better samples likelier and pays for every nat that it leaves the data by."""

    type: Literal["kl"] = "kl"
    alpha: float = Field(default=1.0, gt=0)
    """Price of a nat; the greater, the nearer to imitation."""
    samples: int = Field(default=4, ge=2)
    """Own actions that are compared at each step."""
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """Of the values."""
    discount: Discount = 0.99
    """Per environment step."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """How far target copies move at every step."""
    critic: CriticConfig = CriticConfig()
    """Networks."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the values learn."""

    def build(self, policy: Policy) -> ActorCritic:
        value = ExpectileConfig(critic=self.critic, target_rate=self.target_rate, expectile=self.expectile)
        nearing = KLConfig(alpha=self.alpha, samples=self.samples)
        return build_actor_critic(policy, value, nearing, discount=self.discount, warmup=self.warmup_steps)


__all__ = ["KLObjectiveConfig"]
