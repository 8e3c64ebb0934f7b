"""TD3+BC (Fujimoto and Gu, 2021, "A minimalist approach to offline reinforcement learning")."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.policy import Policy
from vla.training.extractions.ddpg_bc import DDPGBCConfig
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.values.td import TDConfig


@register("objectives", "td3_bc")
class TD3BCConfig(CriticObjectiveConfig):
    """Q of the policy's own (smoothed) actions; the policy climbs it, held to the data by imitation."""

    type: Literal["td3_bc"] = "td3_bc"
    alpha: float = Field(default=2.5, gt=0)
    """Weight of Q, in units of its mean size, beside the loss of imitation."""
    noise: float = Field(default=0.2, ge=0)
    """Smoothing noise on next actions, in units of half their range."""
    noise_clip: float = Field(default=0.5, gt=0)
    """Greatest smoothing noise."""
    policy_every: int = Field(default=2, ge=1)
    """The policy learns at every so many steps."""

    def build(self, policy: Policy) -> ActorCritic:
        value = TDConfig(
            **self.critics,
            next_actions="mode",
            noise=self.noise,
            noise_clip=self.noise_clip,
        )
        climbing = DDPGBCConfig(bc=1 / self.alpha, every=self.policy_every)
        return self.join(policy, value, climbing)


__all__ = ["TD3BCConfig"]
