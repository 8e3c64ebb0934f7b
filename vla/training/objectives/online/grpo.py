"""Group relative policy optimisation (Shao et al., 2024) over action tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vla.config import register
from vla.models.policy import Policy
from vla.training.online_rl.policy_gradient import PolicyGradient, PolicyGradientConfig


@register("objectives", "grpo")
class GRPOConfig(PolicyGradientConfig):
    """Clipped ratios as in `ppo`; an episode's advantage is against the others of its own start.

    No values are learned. Needs several episodes of each start (`episodes_per_start` of `vla
    online`); starts whose episodes all came to the same teach nothing and are left out.

    Formula: `PolicyGradientConfig` with A = (R - mean of the group) / std of the group, R the
    discounted sum of an episode's rewards, or with `baseline: leave_one_out` R minus the mean of
    the others.

    Source: Shao et al., 2024, "DeepSeekMath", eq. 3; leave-one-out: Ahmadian et al., 2024, "Back to
    basics", eq. 7.
    """

    type: Literal["grpo"] = "grpo"
    discount: float = Field(default=1.0, gt=0, le=1)
    """Per environment step. 1 asks for success alone; below 1, of two episodes that succeed the
    faster one is the better one, so that starts which always succeed go on to teach."""
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """How far below 1 a ratio still counts."""
    clip_high: float = Field(default=0.28, gt=0)
    """How far above 1 a ratio still counts."""
    baseline: Literal["group", "leave_one_out"] = "group"
    """Against what an episode is held: mean and spread of its group, or the mean of the others."""
    least_share: float = Field(default=0.0, ge=0, le=1)
    """Groups of a lower mean are left out; of 0 to 1 within the round's range of returns."""
    greatest_share: float = Field(default=1.0, ge=0, le=1)
    """Groups of a higher mean are left out."""

    @model_validator(mode="after")
    def _ordered(self) -> GRPOConfig:
        if self.least_share >= self.greatest_share:
            raise ValueError(
                f"least_share: {self.least_share:g} is not below greatest_share: "
                f"{self.greatest_share:g}, so that every group would be left out"
            )
        return self

    def build(self, policy: Policy) -> PolicyGradient:
        return PolicyGradient(
            policy,
            self,
            clip=(self.clip_low, self.clip_high),
            by_groups={
                "leave_one_out": self.baseline == "leave_one_out",
                "least_share": self.least_share,
                "greatest_share": self.greatest_share,
            },
        )


__all__ = ["GRPOConfig"]
