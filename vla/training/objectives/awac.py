"""AWAC (Nair et al., 2020)."""

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
    """Q of the policy itself by temporal differences; imitation weighted by
    exp(beta * (Q(s, a) - Q(s, the policy's own))).

    Formula, with next actions a' and own actions a_pi of the policy, discount g, and chunks of n
    steps:

        L_Q = mean over B, T of (Q(s, a) - (r_0 + ... + g^n Q'(s_n, a')))^2
        L_pi = mean over B, T of w * -log pi(a | s)
        w = min(exp(beta * (Q(s, a) - Q(s, a_pi))), max_weight)

    Value part `td`, extraction `weighted_bc`, which give the shapes.

    Source: Nair, Gupta, Dalal and Levine, 2020, "AWAC: accelerating online reinforcement learning
    with offline datasets", section 4 and algorithm 1, with beta = 1 / lambda.
    """

    type: Literal["awac"] = "awac"
    beta: float = Field(default=1.0, gt=0)
    """Inverse temperature, 1 / lambda of the paper."""
    max_weight: float = Field(default=100.0, ge=1)
    """Greatest weight."""
    standardise: bool = False
    """Take advantages in units of their running standard deviation."""
    samples: int = Field(default=1, ge=1)
    """Own actions that the policy's value is averaged over; heads with `bin_smoothing` or
    `label_smoothing` are asked for their most likely action alone."""

    def build(self, policy: Policy) -> ActorCritic:
        # `samples` is both of the next actions and of the own ones in the advantage
        value = TDConfig(**self.critics, samples=self.samples)
        extraction = WeightedBCConfig(
            beta=self.beta, max_weight=self.max_weight, standardise=self.standardise
        )
        return self.join(policy, value, extraction)


__all__ = ["AWACConfig"]
