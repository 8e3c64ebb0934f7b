"""Implicit Q-learning: V is an upper expectile of Q over the data's actions.

B windows, T steps, E critics.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.critics import StateCritic
from vla.training.losses import expectile_loss, masked_mean, masked_means
from vla.training.offline_rl.values.base import (
    Critics,
    Lookahead,
    Transition,
    ValueConfig,
    ValueEstimates,
    ValueLoss,
)
from vla.types import Spec


@register("values", "expectile")
class ExpectileConfig(ValueConfig):
    """V as an expectile of the target Q of the data's actions, Q on n-step targets with V behind
    them.

    No action outside of the data is ever asked for its value. Formula, with tau = `expectile`, the
    least target critic Q', discount g, and chunks a of K actions (n = K steps):

        L_V = mean over B, T of |tau - 1(u < 0)| u^2,             u = Q'(s, a) - V(s)
        L_Q = sum over E, mean over B, T of (Q_e(s, a) - y)^2,    y = r_0 + ... + g^n V(s_n)
        A(s, a) = Q'(s, a) - V(s)

    Shapes: V, Q', y and A are (B, T), Q is (E, B, T).

    Source: Kostrikov, Nair and Levine, 2022, "Offline reinforcement learning with implicit
    Q-learning", eq. 4 to 6.
    """

    type: Literal["expectile"] = "expectile"
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """0.5 is the value of the data's own behaviour (SARSA); towards 1 the best action of the data
    counts."""
    advantage: Literal["q", "outcome"] = "q"
    """What an action's advantage over V is measured by: the learned Q; or the target that Q is
    taught with, which knows of this very episode what Q has yet to learn, and takes luck for skill
    where the world is random."""

    def build(
        self,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> Expectile:
        return Expectile(self, feature_dim, spec, chunk)


class Expectile(Critics):
    """See the config."""

    config: ExpectileConfig
    state_critic: StateCritic
    looks_ahead = True

    def __init__(
        self,
        config: ExpectileConfig,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> None:
        super().__init__(config, feature_dim, spec, chunk, state_value=True)

    def loss(self, now: Transition, lookahead: Lookahead | None) -> ValueLoss:
        """Both losses, and the advantage of the data's actions."""
        assert lookahead is not None
        mask_BT = now.batch.mask
        v_BT = self.state_critic(now.features)
        # the slow copy, as published: V would chase a Q that itself bootstraps from V
        target_q_BT = self.target_q(now.target_features, now.batch.actions)
        error_BT = target_q_BT - v_BT
        value_loss = masked_mean(expectile_loss(error_BT, self.config.expectile), mask_BT)
        with torch.no_grad():
            next_v_BT = self.state_critic(lookahead.transition.features)
            target_BT = self.target(now, lookahead, next_v_BT)
        estimate = self.action_critic.estimate(now.features, now.batch.actions)
        q_EBT = estimate.values
        # steps without a target count as 0 and stay in the divisor, so that each known step has the
        # same weight in every micro-batch
        q_error_BT = estimate.error(target_BT).sum(0).where(lookahead.known, 0.0)
        td_loss = masked_mean(q_error_BT, mask_BT)
        with torch.no_grad():
            best_BT = self._measure(target_q_BT, target_BT, lookahead)
            estimates = ValueEstimates(advantage=best_BT - v_BT)
            q_BT = q_EBT.mean(0)
            metrics = {
                "value_loss": value_loss.detach(),
                "td_loss": td_loss.detach() / len(q_EBT),
                "v": masked_mean(v_BT, mask_BT),
            }
            columns = {
                "q_data": q_BT,
                "q_target": target_BT,
                "q_above_return": q_BT - now.batch.returns_to_go,
            }
            metrics |= masked_means(columns, lookahead.known)
        return ValueLoss(value_loss + td_loss, metrics, estimates)

    @torch.no_grad()
    def advantage(self, now: Transition) -> Float[Tensor, "B T"]:
        if now.estimates.advantage is not None:
            return now.estimates.advantage
        # outside of training, as the loss has it: by the target copies, and outcomes if asked for
        best_BT = self.target_q(now.target_features, now.batch.actions)
        if self.config.advantage == "outcome" and now.next is not None:
            next_v_BT = self.state_critic(now.next.transition.features)
            best_BT = self._measure(best_BT, self.target(now, now.next, next_v_BT), now.next)
        return best_BT - self.state_critic(now.features)

    def _measure(
        self,
        target_q_BT: Tensor,
        target_BT: Tensor,
        lookahead: Lookahead,
    ) -> Tensor:
        """What V is subtracted from: Q, or the target where it is known."""
        if self.config.advantage == "outcome":
            return target_BT.where(lookahead.known, target_q_BT)
        return target_q_BT


__all__ = ["Expectile", "ExpectileConfig"]
