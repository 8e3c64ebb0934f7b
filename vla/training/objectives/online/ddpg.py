"""Deep deterministic policy gradients (Lillicrap et al., 2016)."""

from __future__ import annotations

from typing import Literal

from vla.config import register
from vla.models.critics import CriticConfig
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.ddpg_bc import DDPGBCConfig
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "ddpg")
class DDPGConfig(CriticObjectiveConfig):
    """Q of what a slow copy of the policy would do; the policy climbs it.

    Learns in `vla online` with `policy.head: {type: squashed}` and `act.explore: {noise: 0.1}`.
    With `head: {type: gaussian}` the policy climbs Q through its samples, and explores by them (the
    model-free form of stochastic value gradients, SVG(0)). Formula, with the slow copies Q' and
    pi', discount g, and chunks of n steps:

        L_Q = mean over B, T of (Q(s, a) - (r_0 + ... + g^n Q'(s_n, pi'(s_n))))^2
        L_pi = -mean over B, T of Q(s, pi(s))

    Value part `td`, extraction `ddpg_bc`, which give the shapes.

    Source: Lillicrap et al., 2016, "Continuous control with deep reinforcement learning", algorithm
    1; Heess et al., 2015, "Learning continuous control policies by stochastic value gradients".
    """

    type: Literal["ddpg"] = "ddpg"
    critic: CriticConfig = CriticConfig(ensemble=1)
    """Networks."""
    target_policy: bool = True
    """Values look ahead by a slowly moving copy of the policy; false, by the policy itself: without
    its memory."""

    def build(self, policy: Policy) -> ActorCritic:
        value = TDConfig(**self.critics, target_policy=self.target_policy)
        # of one critic the first and the least are the same; of several, what `td3` climbs
        return self.join(policy, value, DDPGBCConfig(bc=0.0, normalise=False, q="first"))


__all__ = ["DDPGConfig"]
