"""Trust region policy optimisation (Schulman et al., 2015) over action tokens."""

from __future__ import annotations

from typing import Literal

from vla.config import register
from vla.models.policy import Policy
from vla.training.online_rl.trust_region import TrustRegion, TrustRegionConfig


@register("objectives", "trpo")
class TRPOConfig(TrustRegionConfig):
    """One natural-gradient step a round, the longest that is better and within a mean KL.

    Formula, g the gradient of -L of `PolicyGradientConfig` without clipping, F the Fisher matrix:

        x = (F + damping I)^-1 g by conjugate gradient
        step = sqrt(2 max_kl / x.(F + damping I)x) x

    and of 1, 0.8, 0.8^2 ... of that step the first after which -L is greater and the mean
    KL(old || new) of the executed tokens at most max_kl. A by GAE over decisions.

    The updates of a round, and `optim`, are those of the values.

    Source: Schulman et al., 2015, "Trust region policy optimization", eq. 14 and appendix C;
    damping and the factor 0.8 are those of stable-baselines3.
    """

    type: Literal["trpo"] = "trpo"

    def build(self, policy: Policy) -> TrustRegion:
        return TrustRegion(policy, self)


__all__ = ["TRPOConfig"]
