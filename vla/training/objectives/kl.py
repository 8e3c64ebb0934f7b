"""Policy improvement under a constraint to the data (Wu, Tucker and Nachum, 2019, BRAC)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.kl import KLConfig
from vla.training.offline_rl.values.expectile import ExpectileConfig


@register("objectives", "kl")
class KLObjectiveConfig(CriticObjectiveConfig):
    """Q and V of IQL; the policy makes its own better samples likelier and pays for every nat that
    it leaves the data by.

    Formula, with S samples a_i of the policy and their advantages A_i over each other:

        L_pi = alpha * mean over B, T of -log pi(a | s)
               - mean over B, T and S of A_i log pi(a_i | s) / (K A)

    Value part `expectile`, extraction `kl`, which give the losses of Q and V, and the shapes.

    Source: Wu, Tucker and Nachum, 2019, "Behavior regularized offline reinforcement learning" (BRAC
    with policy regularisation).
    """

    type: Literal["kl"] = "kl"
    alpha: float = Field(default=1.0, gt=0)
    """Price of a nat; the greater, the nearer to imitation."""
    samples: int = Field(default=4, ge=2)
    """Own actions that are compared at each step."""
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """Of the values."""

    def build(self, policy: Policy) -> ActorCritic:
        # V of the data, not of the policy: the values stay those of IQL however far the policy goes
        value = ExpectileConfig(**self.critics, expectile=self.expectile)
        extraction = KLConfig(alpha=self.alpha, samples=self.samples)
        return self.join(policy, value, extraction)


__all__ = ["KLObjectiveConfig"]
