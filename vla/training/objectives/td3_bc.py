"""TD3+BC (Fujimoto and Gu, 2021)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.ddpg_bc import DDPGBCConfig
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "td3_bc")
class TD3BCConfig(CriticObjectiveConfig):
    """Q of the policy's own (smoothed) actions; the policy climbs it, held to the data by
    imitation.

    As published with `policy.head: {type: squashed}`: one action for a state, and its squared
    error; other heads imitate by their own loss. Formula, with the slow copy pi' of the policy, the
    least target critic Q', discount g, and chunks of n steps:

        L_Q = mean over B, T of (Q_e(s, a) - (r_0 + ... + g^n Q'(s_n, pi'(s_n) + noise)))^2
        L_pi = mean over B, T of -Q_1(s, pi(s)) / mean |Q_1| + (1 / alpha) * -log pi(a | s)

    Value part `td`, extraction `ddpg_bc`, which give the shapes.

    Source: Fujimoto and Gu, 2021, "A minimalist approach to offline reinforcement learning", eq. 3
    and 5; Fujimoto, van Hoof and Meger, 2018, TD3, algorithm 1.
    """

    type: Literal["td3_bc"] = "td3_bc"
    alpha: float = Field(default=2.5, gt=0)
    """Weight of Q, in units of its mean size, beside the loss of imitation."""
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
        # the published loss divided by alpha, which changes no direction of the gradient: `ddpg_bc`
        # has a weight for imitation, and none for Q
        extraction = DDPGBCConfig(
            bc=1 / self.alpha,
            every=self.policy_every,
            q="first",
        )
        return self.join(policy, value, extraction)


__all__ = ["TD3BCConfig"]
