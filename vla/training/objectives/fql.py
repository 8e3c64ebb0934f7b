"""Flow Q-learning (Park, Li and Levine, 2025)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.policies.one_step import StudentConfig
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.one_step import OneStepExtractionConfig
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "fql")
class FQLConfig(CriticObjectiveConfig):
    """A flow imitates the data; a one-step student of it climbs Q, and acts.

    Needs `policy.head: {type: flow}`. Formula, with the flow f, the student m, noise z, the least
    target critic Q', discount g, and chunks of n steps:

        L_Q = mean over B, T of (Q_e(s, a) - (r_0 + ... + g^n Q'(s_n, m(s_n, z))))^2
        L_pi = L_flow + mean over B, T of alpha (m(s, z) - f(s, z))^2 - Q(s, m(s, z)) / mean |Q|

    Value part `td`, extraction `one_step`, which give the shapes.

    Source: Park, Li and Levine, 2025, "Flow Q-learning", arXiv:2502.02538, algorithm 1; of chunks
    Li, Zhou and Levine, 2025, "Reinforcement learning with action chunking", arXiv:2507.07969. The
    published critics are averaged where ours takes the least, and the distance is in units of half
    the action range where ours is in deviations of the data.
    """

    type: Literal["fql"] = "fql"
    alpha: float = Field(default=10.0, ge=0)
    """Price of leaving the flow; the greater, the nearer to imitation."""
    normalise: bool = True
    """Divide Q by its mean absolute value in the batch."""
    student: StudentConfig = StudentConfig()
    """The network that acts."""

    def build(self, policy: Policy) -> ActorCritic:
        extraction = OneStepExtractionConfig(
            alpha=self.alpha,
            normalise=self.normalise,
            student=self.student,
        )
        return self.join(policy, TDConfig(**self.critics), extraction)


__all__ = ["FQLConfig"]
