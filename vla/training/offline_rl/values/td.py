"""Q by temporal differences: of the data's own next actions, or of what the policy would do.

B windows, T steps, K actions per chunk, A action dimensions, S sampled chunks, E critics.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import register
from vla.training.losses import masked_mean, masked_means
from vla.training.offline_rl.ignored_options import refuse_ignored_options
from vla.training.offline_rl.values.base import (
    Critics,
    Lookahead,
    Transition,
    ValueConfig,
    ValueEstimates,
    ValueLoss,
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

    Shapes: y and A are (B, T), Q is (E, B, T), next actions are (S, B, T, K, A).

    Source: SARSA and expected SARSA (Sutton and Barto, eq. 6.7 and 6.9); the least of two critics
    and the smoothed next action are TD3's (Fujimoto, van Hoof and Meger, 2018, algorithm 1).
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

    @model_validator(mode="after")
    def _chooses_from_several(self) -> TDConfig:
        if self.next_actions == "max" and self.samples == 1:
            raise ValueError(
                "samples: the greatest of 1 sample is that sample; set samples: 10, or "
                "next_actions: policy"
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

    def loss(self, now: Transition, lookahead: Lookahead | None) -> ValueLoss:
        assert lookahead is not None
        value_loss, _ = self.td_loss(now, lookahead)
        return value_loss

    def td_loss(
        self, now: Transition, lookahead: Lookahead
    ) -> tuple[ValueLoss, Float[Tensor, "E B T"]]:
        """The loss, and Q of the data's actions with its gradient."""
        next_value_BT = self.next_value(lookahead.transition)
        target_BT = self.target(now, lookahead, next_value_BT)
        q_EBT = self.action_critic(now.features, now.batch.actions)
        # steps without a target count as 0 and stay in the divisor, so that each known step has the
        # same weight in every micro-batch
        squared_BT = (q_EBT - target_BT).square().sum(0).where(lookahead.known, 0.0)
        loss = masked_mean(squared_BT, now.batch.mask)
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
