"""Soft actor-critic (Haarnoja et al., 2018)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from vla.config import register
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.ddpg_bc import DDPGBCConfig, Temperature
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "sac")
class SACConfig(CriticObjectiveConfig):
    """Q of rewards and of the policy's entropy; the policy climbs it.

    Learns in `vla online` from all that the policy did, with `policy.head: {type: gaussian, squash:
    full, deviation: state}`; and offline, where nothing holds it to the data. Formula, with a
    sample a' of the policy, the least target critic Q', discount g, and chunks of n steps:

        y = r_0 + ... + g^n (Q'(s_n, a') - t log pi(a' | s_n))
        L_Q = sum over E, mean over B, T of (Q_e(s, a) - y)^2
        L_pi = mean over B, T of t log pi(a' | s) - min over E of Q_e(s, a')
        L_t = -log t (target_entropy + log pi(a' | s))

    pi is a density of actions in units in which their range is [-1, 1]. Value part `td` (soft),
    extraction `ddpg_bc`, which give the shapes.

    Source: Haarnoja et al., 2018, "Soft actor-critic algorithms and applications", eq. 3, 7, 18.
    """

    type: Literal["sac"] = "sac"
    temperature: Temperature = "auto"
    """What a nat of entropy is worth, in units of reward; `auto` learns it."""
    target_entropy: float | None = None
    """Entropy (nats) that `temperature: auto` moves to, for each number of a chunk; null: -1 of
    densities, 0.98 * log(ids) of tokens."""
    policy_every: int = Field(default=1, ge=1)
    """The policy learns at every so many steps of the critics."""
    soft: bool = True
    """Count the entropy of later actions as reward. False: the policy keeps its entropy, and
    values are of the rewards alone, as suits sparse ones."""

    @property
    def climbed(self) -> Literal["least", "mean"]:
        """What of the critics the policy climbs."""
        return "least"

    def value(self) -> TDConfig:
        """The value part."""
        return TDConfig(**self.critics, soft=self.soft)

    def build(self, policy: Policy) -> ActorCritic:
        entropy: dict[str, Any] = {"temperature": self.temperature}
        if self.target_entropy is not None:
            entropy["target_entropy"] = self.target_entropy
        # in units of reward, as values are: the same temperature serves both losses
        extraction = DDPGBCConfig(
            bc=0.0,
            normalise=False,
            q=self.climbed,
            every=self.policy_every,
            exact_entropy=True,
            **entropy,
        )
        return self.join(policy, self.value(), extraction)


__all__ = ["SACConfig"]
