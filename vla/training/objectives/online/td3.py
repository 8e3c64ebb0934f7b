"""Twin delayed deterministic policy gradients (Fujimoto, van Hoof and Meger, 2018)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.ddpg_bc import DDPGBCConfig
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "td3")
class TD3Config(CriticObjectiveConfig):
    """The least of two Q of smoothed next actions; a policy that learns at every second step.

    Learns in `vla online` with `policy.head: {type: squashed}` and `act.explore: {noise: 0.1}`;
    held to recordings it is `td3_bc`. Formula, with the slow copy pi' of the policy, the least
    target critic Q', discount g, and chunks of n steps:

        L_Q = sum over E, mean over B, T of (Q_e(s, a) - y)^2
        y = r_0 + ... + g^n Q'(s_n, pi'(s_n) + clipped noise)
        L_pi = -mean over B, T of Q_1(s, pi(s))

    Value part `td`, extraction `ddpg_bc`, which give the shapes.

    Source: Fujimoto, van Hoof and Meger, 2018, "Addressing function approximation error in
    actor-critic methods", algorithm 1.
    """

    type: Literal["td3"] = "td3"
    noise: float = Field(default=0.2, ge=0)
    """Smoothing noise on next actions, in units of half their range."""
    noise_clip: float = Field(default=0.5, gt=0)
    """Greatest smoothing noise."""
    policy_every: int = Field(default=2, ge=1)
    """The policy learns, and target copies move, at every so many steps."""
    target_policy: bool = True
    """Values look ahead by a slowly moving copy of the policy, as published; false, by the policy
    itself: without its memory."""

    def build(self, policy: Policy) -> ActorCritic:
        value = TDConfig(
            **self.critics,
            next_actions="mode",
            noise=self.noise,
            noise_clip=self.noise_clip,
            target_policy=self.target_policy,
            target_every=self.policy_every,
        )
        extraction = DDPGBCConfig(bc=0.0, normalise=False, q="first", every=self.policy_every)
        return self.join(policy, value, extraction)


__all__ = ["TD3Config"]
