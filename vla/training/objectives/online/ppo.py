"""Proximal policy optimisation (Schulman et al., 2017) over action tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.policy import Policy
from vla.training.online_rl.policy_gradient import PolicyGradient, ValuedConfig


@register("objectives", "ppo")
class PPOConfig(ValuedConfig):
    """Clipped ratios of each executed token to the policy that acted, A by GAE over decisions.

    Formula: `PolicyGradientConfig`. Ratios are of single tokens, not of whole chunks: products of
    many ratios leave the clipped range at once. The upper limit is the wider one, as in DAPO (Yu et
    al., 2025), so that rare tokens can become frequent.

    Source: Schulman et al., 2017, "Proximal policy optimization algorithms", eq. 7.
    """

    type: Literal["ppo"] = "ppo"
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """How far below 1 a ratio still counts."""
    clip_high: float = Field(default=0.28, gt=0)
    """How far above 1 a ratio still counts."""

    def build(self, policy: Policy) -> PolicyGradient:
        return PolicyGradient(policy, self, clip=(self.clip_low, self.clip_high))


__all__ = ["PPOConfig"]
