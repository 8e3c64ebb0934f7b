"""Implicit Q-learning: V is an upper expectile of Q over the data's actions; no action outside of the data is ever asked.

Kostrikov, Nair and Levine, 2022, "Offline reinforcement learning with implicit Q-learning".
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.critics import StateCritic
from vla.training.losses import expectile_loss, masked_mean, masked_means
from vla.training.offline_rl.values.base import Critics, Lookahead, Moment, ValueConfig
from vla.types import Batch, Spec


@register("values", "expectile")
class ExpectileConfig(ValueConfig):
    """V as an expectile of the target Q of the data's actions, Q on n-step targets with V behind them."""

    type: Literal["expectile"] = "expectile"
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """0.5 is the value of who made the data (SARSA); towards 1 the best action of the data counts."""
    advantage: Literal["q", "outcome"] = "q"
    """What an action's advantage over V is measured by: the learned Q; or the target that Q is taught with, which knows of this
    very episode what Q has yet to learn, and takes luck for skill where the world is random."""

    def build(self, feature_dim: int, spec: Spec, chunk: int) -> Expectile:
        return Expectile(self, feature_dim, spec, chunk)


class Expectile(Critics):
    """See the config."""

    config: ExpectileConfig
    state_critic: StateCritic
    looks_ahead = True

    def __init__(self, config: ExpectileConfig, feature_dim: int, spec: Spec, chunk: int) -> None:
        super().__init__(config, feature_dim, spec, chunk, state_value=True)
        self._told: tuple[Batch, Tensor] | None = None

    def loss(self, now: Moment, later: Lookahead | None) -> tuple[Tensor, dict[str, Tensor]]:
        assert later is not None
        values = self.state_critic(now.features)
        told_BT = self.target_q(now.features, now.batch.actions)
        above_BT = told_BT - values
        value_loss = masked_mean(expectile_loss(above_BT, self.config.expectile), now.batch.mask)
        with torch.no_grad():
            target = self.target(now, later, self.state_critic(later.moment.features))
        q_EBT = self.action_critic(now.features, now.batch.actions)
        error_BT = (q_EBT - target).square().sum(0).where(later.known, 0.0)
        td_loss = masked_mean(error_BT, now.batch.mask)
        with torch.no_grad():
            best_BT = (
                target.where(later.known, told_BT)
                if self.config.advantage == "outcome"
                else told_BT
            )
            self._told = (now.batch, best_BT - values)
            q_BT = q_EBT.mean(0)
            metrics = {
                "value_loss": value_loss.detach(),
                "td_loss": td_loss.detach() / len(q_EBT),
                "v": masked_mean(values, now.batch.mask),
            }
            above = q_BT - now.batch.returns_to_go
            metrics |= masked_means(
                {"q_data": q_BT, "q_target": target, "q_above_return": above}, later.known
            )
        return value_loss + td_loss, metrics

    @torch.no_grad()
    def advantage(self, now: Moment) -> Tensor:
        told, self._told = self._told, None
        if told is not None and told[0] is now.batch:  # the loss has just asked the same
            return told[1]
        q_BT = self.target_q(now.features, now.batch.actions)
        if self.config.advantage == "outcome" and now.later is not None:
            outcome_BT = self.target(now, now.later, self.state_critic(now.later.moment.features))
            q_BT = outcome_BT.where(now.later.known, q_BT)
        return q_BT - self.state_critic(now.features)


__all__ = ["Expectile", "ExpectileConfig"]
