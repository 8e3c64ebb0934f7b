"""Advantage actor-critic (Mnih et al., 2016), synchronous."""

from __future__ import annotations

from typing import Literal

from vla.config import register
from vla.models.policy import Policy
from vla.training.online_rl.policy_gradient import PolicyGradient, ValuedConfig


@register("objectives", "a2c")
class A2CConfig(ValuedConfig):
    """The log probability of what was done, weighted by its advantage over a learned value.

    Formula: `PolicyGradientConfig` without clipping, A by GAE over decisions. One pass over each
    round: set `epochs: 1`.

    Source: Mnih et al., 2016, "Asynchronous methods for deep reinforcement learning", sec. 4; its
    n-step returns are replaced by GAE.
    """

    type: Literal["a2c"] = "a2c"

    def build(self, policy: Policy) -> PolicyGradient:
        return PolicyGradient(policy, self)


__all__ = ["A2CConfig"]
