"""Q by temporal differences: of the data's own next actions (SARSA), or of what the policy would do (expected SARSA)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import register
from vla.training.losses import masked_mean, masked_means
from vla.training.offline_rl.ignored_options import refuse_unused
from vla.training.offline_rl.values.base import Critics, Lookahead, Moment, ValueConfig, draw
from vla.types import Batch, Spec


@register("values", "td")
class TDConfig(ValueConfig):
    """Twin Q networks on n-step targets. An action's advantage is its Q above that of the policy's own actions."""

    type: Literal["td"] = "td"
    next_actions: Literal["policy", "data", "mode"] = "policy"
    """What acts at the next state: samples of the policy, the data's action (SARSA: the value of who made the data), or the
    policy's most likely action."""
    samples: int = Field(default=1, ge=1)
    """Samples of the policy that a value is averaged over."""
    noise: float = Field(default=0.0, ge=0)
    """Deviation of smoothing noise on the next action, in units of half its range (TD3: 0.2), clipped at `noise_clip`."""
    noise_clip: float = Field(default=0.5, gt=0)
    """Greatest smoothing noise."""
    target_policy: bool = False
    """Ask a slowly moving copy of the policy what it would do at the next state, in place of the policy itself (TD3). Costs the
    copy's memory."""
    target_every: int = Field(default=1, ge=1)
    """Target copies move at every so many steps (TD3: 2)."""

    @model_validator(mode="after")
    def _asks_a_policy(self) -> TDConfig:
        if self.target_policy and self.next_actions == "data":
            raise ValueError(
                "target_policy: next_actions: data asks no policy; use policy or mode, or drop it"
            )
        if self.next_actions == "data":
            refuse_unused(
                self,
                ("noise", "noise_clip"),
                "next_actions: data asks no policy; use policy or mode, or drop it",
            )
        return self

    def build(self, feature_dim: int, spec: Spec, chunk: int) -> TD:
        return TD(self, feature_dim, spec, chunk)


class TD(Critics):
    """See the config."""

    config: TDConfig
    looks_ahead = True

    def __init__(self, config: TDConfig, feature_dim: int, spec: Spec, chunk: int) -> None:
        super().__init__(config, feature_dim, spec, chunk, state_value=False)
        self.needs_policy_later = config.next_actions != "data"
        self.target_policy, self.target_every = config.target_policy, config.target_every
        self._told: tuple[Batch, Tensor] | None = None

    def loss(self, now: Moment, later: Lookahead | None) -> tuple[Tensor, dict[str, Tensor]]:
        assert later is not None
        return self.td_loss(now, later)[:2]

    def td_loss(self, now: Moment, later: Lookahead) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """-> loss, metrics, and Q of the data's actions (E, B, T)."""
        target = self.target(now, later, self.next_value(later.moment))
        q_EBT = self.action_critic(now.features, now.batch.actions)
        error_BT = (q_EBT - target).square().sum(0).where(later.known, 0.0)
        loss = masked_mean(error_BT, now.batch.mask)
        with torch.no_grad():
            self._told = (now.batch, q_EBT.amin(0))
            q_BT = q_EBT.mean(0)
            above = q_BT - now.batch.returns_to_go
            metrics = masked_means(
                {"q_data": q_BT, "q_target": target, "q_above_return": above}, later.known
            )
        return loss, {"td_loss": loss.detach() / len(q_EBT)} | metrics, q_EBT

    @torch.no_grad()
    def next_value(self, moment: Moment) -> Tensor:
        """(B, T)."""
        if self.config.next_actions == "data":
            return self.target_q(moment.features, moment.batch.actions)
        if self.config.next_actions == "mode":
            return self.target_q(moment.features, self._smoothed(moment.actions.mode()))
        actions = self._smoothed(draw(moment.actions, self.config.samples))
        return self.target_q(moment.features, actions).mean(0)

    def _smoothed(self, actions: Tensor) -> Tensor:
        if not self.config.noise:
            return actions
        critic = self.action_critic
        limit = self.config.noise_clip
        noise = (self.config.noise * torch.randn_like(actions)).clamp(-limit, limit)
        low, high = (
            critic.action_middle - critic.action_half,
            critic.action_middle + critic.action_half,
        )
        return (actions + noise * critic.action_half).clamp(low, high)

    @torch.no_grad()
    def advantage(self, now: Moment) -> Tensor:
        told, self._told = self._told, None
        if told is not None and told[0] is now.batch:  # the loss has just asked the same
            q_BT = told[1]
        else:
            q_BT = self.action_critic(now.features, now.batch.actions).amin(0)
        own_SBT = self.action_critic(now.features, draw(now.actions, self.config.samples)).amin(0)
        return q_BT - own_SBT.mean(0)


__all__ = ["TD", "TDConfig"]
