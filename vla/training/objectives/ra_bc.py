"""Reward-aligned behavioural cloning (Chen et al., 2025, SARM)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.critics import CriticConfig
from vla.models.policy import Policy
from vla.training.objective import AuxiliaryConfig
from vla.training.objectives.actor_critic import ActorCritic, build_actor_critic
from vla.training.offline_rl.extractions.progress_weighted import ProgressWeightedConfig
from vla.training.offline_rl.values.progress import ProgressConfig


@register("objectives", "ra_bc")
class RABCConfig(AuxiliaryConfig):
    """Imitation, weighted by the progress towards success that each chunk makes.

    Chunks that lead away from success count for nothing. Formula, with progress P in [0, 1], n
    steps to success, and the weights w of `progress_weighted`:

        L_P = mean over B, T of (P(s_t) - t / (t + n))^2,    of solved episodes
        L_pi = mean over B, T of w(P(s_{t+K}) - P(s_t)) * -log pi(a | s)

    Value part `progress`, extraction `progress_weighted`, which give the shapes.

    Source: Chen et al., 2025, "SARM: stage-aware reward modeling for long horizon robot
    manipulation", arXiv:2509.25358, section on reward-aligned behaviour cloning.
    """

    type: Literal["ra_bc"] = "ra_bc"
    discount: float = Field(default=0.99, gt=0, lt=1)
    """Per environment step, below 1: returns are read as times by it."""
    critic: CriticConfig = CriticConfig()
    """The network of the progress."""
    kappa: float = Field(default=0.01, ge=0, lt=1)
    """Progress above which a chunk counts fully."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the progress is learned, as published."""

    def build(self, policy: Policy) -> ActorCritic:
        return build_actor_critic(
            policy,
            ProgressConfig(critic=self.critic),
            ProgressWeightedConfig(kappa=self.kappa),
            discount=self.discount,
            warmup=self.warmup_steps,
            auxiliary=self.auxiliary,
        )


__all__ = ["RABCConfig"]
