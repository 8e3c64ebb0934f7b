"""Q by temporal differences: of the data's own next actions, or of what the policy would do.

B windows, T steps, K actions per chunk, A action dimensions, S sampled chunks, E critics.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import register
from vla.config.ignored_options import refuse_ignored_options
from vla.training.losses import masked_mean, masked_means
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.values.base import (
    Critics,
    Lookahead,
    Transition,
    ValueConfig,
    ValueEstimates,
    ValueLoss,
    draw,
    log_density,
    own_actions,
)
from vla.types import Spec


@register("values", "td")
class TDConfig(ValueConfig):
    """Twin Q networks on n-step targets. An action's advantage is its Q above that of the policy's
    own.

    Formula, with the least target critic Q', discount g, chunks a of K actions (n = K steps), and S
    next actions a' of the policy (or the data's, or the most likely one):

        y = r_0 + ... + g^n mean over S of Q'(s_n, a')        with `max` the greatest over S
        L_Q = sum over E, mean over B, T of (Q_e(s, a) - y)^2
        A(s, a) = min over E of Q(s, a) - mean over S of min over E of Q(s, a_policy)

    With `soft`, and the temperature t of the extraction's entropy, the next value is

        mean over S of Q'(s_n, a') - t log pi(a' | s_n)

    where pi is a density of actions in units in which their range is [-1, 1], or a probability of
    ids.

    Shapes: y and A are (B, T), Q is (E, B, T), next actions are (S, B, T, K, A).

    Source: SARSA and expected SARSA (Sutton and Barto, eq. 6.7 and 6.9); the least of two critics
    and the smoothed next action are TD3's (Fujimoto, van Hoof and Meger, 2018, algorithm 1). The
    soft target is SAC's (Haarnoja et al., 2018, "Soft actor-critic algorithms and applications",
    eq. 3); the least of some critics drawn at random is REDQ's (Chen et al., 2021, algorithm 1).
    """

    type: Literal["td"] = "td"
    next_actions: Literal["policy", "data", "mode", "max"] = "policy"
    """What acts at the next state: samples of the policy, the data's action (SARSA: the value of
    the data's own behaviour), the policy's most likely action, or of its samples the one of
    greatest target Q. Heads with `bin_smoothing` or `label_smoothing` are asked for their most
    likely action in place of samples, which would hold the spread of the training targets."""
    samples: int = Field(default=1, ge=1)
    """Samples of the policy that a value is averaged over, or with `next_actions: max` chosen
    from."""
    noise: float = Field(default=0.0, ge=0)
    """Deviation of smoothing noise on the next action, in units of half its range (TD3: 0.2),
    clipped at `noise_clip`."""
    noise_clip: float = Field(default=0.5, gt=0)
    """Greatest smoothing noise."""
    target_policy: bool = False
    """Ask a slowly moving copy of the policy what it would do at the next state, in place of the
    policy itself (TD3). Costs the copy's memory."""
    target_every: int = Field(default=1, ge=1)
    """Target copies move at every so many steps (TD3: 2)."""
    soft: bool = False
    """Count the entropy of the next action as reward, at the temperature of the extraction's
    entropy (SAC). Goes with extraction: {type: ddpg_bc, normalise: false, temperature: auto}."""
    subset: int | None = Field(default=None, ge=1)
    """So many of the target critics, drawn at every step, give the least (REDQ, RLPD: 2 of
    10); null: all of them. The least of ten would be far below what any of them expects."""

    @model_validator(mode="after")
    def _chooses_from_several(self) -> TDConfig:
        if self.next_actions == "max" and self.samples == 1:
            raise ValueError(
                "samples: the greatest of 1 sample is that sample; set samples: 10, or "
                "next_actions: policy"
            )
        return self

    @model_validator(mode="after")
    def _draws_some_critics(self) -> TDConfig:
        if self.subset is not None and self.subset > self.critic.ensemble:
            raise ValueError(
                f"subset: is {self.subset}, of {self.critic.ensemble} critics (critic.ensemble); "
                "use so many or less"
            )
        return self

    @model_validator(mode="after")
    def _soft_draws_samples(self) -> TDConfig:
        if self.soft and (self.next_actions != "policy" or self.noise):
            raise ValueError(
                "soft: the entropy is of the policy's own samples; use next_actions: policy and "
                "noise: 0, or soft: false"
            )
        return self

    @model_validator(mode="after")
    def _asks_a_policy(self) -> TDConfig:
        if self.next_actions != "data":
            return self
        why = "next_actions: data asks no policy; use policy, mode or max, or drop it"
        if self.target_policy:
            raise ValueError(f"target_policy: {why}")
        refuse_ignored_options(self, ("noise", "noise_clip"), why)
        return self

    def build(
        self,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> TD:
        return TD(self, feature_dim, spec, chunk)


class TD(Critics):
    """See the config."""

    config: TDConfig
    looks_ahead = True

    def __init__(
        self,
        config: TDConfig,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> None:
        super().__init__(config, feature_dim, spec, chunk, state_value=False)
        self.needs_policy_later = config.next_actions != "data"
        self.target_policy = config.target_policy
        self.target_every = config.target_every
        self.soft = config.soft
        if config.soft and self.action_critic.executed < chunk:
            raise ObjectiveError(
                f"objective.value.soft: the entropy is of all {chunk} actions of a chunk, and Q "
                f"would read {self.action_critic.executed}; leave critic.executed out, or set "
                "soft: false"
            )

    def loss(self, now: Transition, lookahead: Lookahead | None) -> ValueLoss:
        assert lookahead is not None
        value_loss, _ = self.td_loss(now, lookahead)
        return value_loss

    def td_loss(
        self, now: Transition, lookahead: Lookahead
    ) -> tuple[ValueLoss, Float[Tensor, "E B T"]]:
        """The loss, and Q of the data's actions with its gradient."""
        next_value_BT = self._lookahead_value(lookahead)
        target_BT = self.target(now, lookahead, next_value_BT)
        estimate = self.action_critic.estimate(now.features, now.batch.actions)
        q_EBT = estimate.values
        # steps without a target count as 0 and stay in the divisor, so that each known step has the
        # same weight in every micro-batch
        error_BT = estimate.error(target_BT).sum(0).where(lookahead.known, 0.0)
        loss = masked_mean(error_BT, now.batch.mask)
        with torch.no_grad():
            # Q alone, not the advantage: that draws actions, which only some extractions ask for
            estimates = ValueEstimates(q_data=q_EBT.amin(0))
            q_BT = q_EBT.mean(0)
            columns = {
                "q_data": q_BT,
                "q_target": target_BT,
                "q_above_return": q_BT - now.batch.returns_to_go,
            }
            metrics = masked_means(columns, lookahead.known)
        metrics = {"td_loss": loss.detach() / len(q_EBT)} | metrics
        return ValueLoss(loss, metrics, estimates), q_EBT

    def _lookahead_value(self, lookahead: Lookahead) -> Float[Tensor, "B T"]:
        if self.config.soft:
            return self.soft_value(lookahead)
        return self.next_value(lookahead.transition)

    @torch.no_grad()
    def soft_value(self, lookahead: Lookahead) -> Float[Tensor, "B T"]:
        """Value of the later states with the entropy of what the policy does there.

        Raises ObjectiveError if the head has no likelihood.
        """
        later = lookahead.transition
        actions: Any = later.actions
        if not hasattr(actions, "log_prob"):
            raise ObjectiveError(
                f"objective: soft values need a head with log_prob, {type(actions).__name__} has "
                "none; use policy.head: {type: gaussian, squash: full, deviation: state}"
            )
        # always samples: the most likely action has no entropy
        own_SBTKA = draw(actions, self.config.samples)
        log_prob_SBT = log_density(actions, own_SBTKA)
        if not hasattr(actions, "tokens"):
            # per unit, not per robot unit: else the entropy would change with the robot's units
            numbers = own_SBTKA.shape[-2]
            log_prob_SBT = log_prob_SBT + numbers * self.action_critic.action_half.log().sum()
        q_SBT = self.target_q(later.target_features, own_SBTKA)
        return (q_SBT - lookahead.temperature * log_prob_SBT).mean(0)

    def target_q(
        self, features: Float[Tensor, "B T F"], actions: Float[Tensor, "... B T K A"]
    ) -> Float[Tensor, "... B T"]:
        if self.config.subset is None:
            return super().target_q(features, actions)
        q_EBT = self.target_critic(features, actions)
        # one draw for the whole batch, as published
        drawn = torch.randperm(len(q_EBT), device=q_EBT.device)[: self.config.subset]
        return cast(Tensor, q_EBT[drawn].amin(0))

    @torch.no_grad()
    def next_value(self, transition: Transition) -> Float[Tensor, "B T"]:
        """Value of the later states under what acts there."""
        # by the target copies: a critic that chases its own values runs away
        features = transition.target_features
        if self.config.next_actions == "data":
            return self.target_q(features, transition.batch.actions)
        if self.config.next_actions == "mode":
            return self.target_q(features, self._smoothed(transition.actions.mode()))
        own_SBTKA = own_actions(transition.actions, self.config.samples)
        q_SBT = self.target_q(features, self._smoothed(own_SBTKA))
        # the least of the critics for each sample, and only then the best of the samples
        return q_SBT.amax(0) if self.config.next_actions == "max" else q_SBT.mean(0)

    def _smoothed(self, actions: Float[Tensor, "*S B T K A"]) -> Float[Tensor, "*S B T K A"]:
        """Next actions with clipped noise: a narrow peak of Q is no target (TD3, section 5.3)."""
        if not self.config.noise:
            return actions
        critic = self.action_critic
        limit = self.config.noise_clip
        noise = (self.config.noise * torch.randn_like(actions)).clamp(-limit, limit)
        # clamped: beyond the range the critic has seen nothing
        low_A = critic.action_middle - critic.action_half
        high_A = critic.action_middle + critic.action_half
        return (actions + noise * critic.action_half).clamp(low_A, high_A)

    @torch.no_grad()
    def advantage(self, now: Transition) -> Float[Tensor, "B T"]:
        # Q of the same steps as the loss, and from the critics that learn, not from their copies
        q_BT = now.estimates.q_data
        if q_BT is None:
            q_BT = self.action_critic(now.features, now.batch.actions).amin(0)
        own_SBTKA = own_actions(now.actions, self.config.samples)
        own_q_SBT = self.action_critic(now.features, own_SBTKA).amin(0)
        return q_BT - own_q_SBT.mean(0)


__all__ = ["TD", "TDConfig"]
