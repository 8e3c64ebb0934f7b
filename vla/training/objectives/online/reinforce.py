"""REINFORCE (Williams, 1992)."""

from __future__ import annotations

from typing import Literal

from vla.config import register
from vla.models.policy import Policy
from vla.training.online_rl.policy_gradient import PolicyGradient, PolicyGradientConfig


@register("objectives", "reinforce")
class ReinforceConfig(PolicyGradientConfig):
    """The log probability of what was done, weighted by the return that followed.

    Formula: `PolicyGradientConfig` without clipping, A the discounted return from the decision to
    the end, less its mean over the round (`normalise`). One pass over each round: set `epochs: 1`.

    Source: Williams, 1992, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning".
    """

    type: Literal["reinforce"] = "reinforce"

    def build(self, policy: Policy) -> PolicyGradient:
        return PolicyGradient(policy, self)


__all__ = ["ReinforceConfig"]
