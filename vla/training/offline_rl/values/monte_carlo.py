"""V by regression on the returns of the data's episodes.

B windows, T steps.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import register
from vla.config.ignored_options import refuse_ignored_options
from vla.models.critics import StateCritic
from vla.training.losses import masked_mean
from vla.training.offline_rl.values.base import (
    Lookahead,
    Transition,
    ValueConfig,
    ValueEstimates,
    ValueLearner,
    ValueLoss,
)
from vla.types import Spec

Q_OPTIONS = ("monte_carlo_floor", "target_rate", "critic.ensemble")
"""Options of values of actions, which this value part has not."""


@register("values", "monte_carlo")
class MonteCarloConfig(ValueConfig):
    """V regressed on the returns to go; an action's advantage is what came of it above V.

    V never stitches episodes. The return of an episode that was truncated stops at the cut: with
    negative rewards an early cut looks good. Formula, with the discounted return to go R, discount
    g and n = `advantage_steps`:

        L_V = mean over B, T of (V(s_t) - R_t)^2, with `critic.bins` the cross-entropy of R_t's bins
        A(s_t, a_t) = R_t - V(s_t),                                         without n
        A(s_t, a_t) = r_t + ... + g^(n-1) r_{t+n-1} + g^n V(s_{t+n}) - V(s_t),  with n

    Shapes: V, R and A are (B, T).

    Source: the value part of AWR; Peng et al., 2019, "Advantage-weighted regression". With n steps
    it is the advantage of RECAP (Physical Intelligence, 2025, "pi*0.6: a VLA that learns from
    experience").
    """

    type: Literal["monte_carlo"] = "monte_carlo"
    advantage_steps: int | None = Field(default=None, ge=1)
    """After how many control steps V takes over in the advantage; null for the whole return. A
    return differs by all that happened up to the episode's end, n steps by what happened in them:
    choose about as many as a good or bad moment lasts."""

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> MonteCarloConfig:
        why = "monte_carlo learns no Q; drop it, or use value: {type: td, next_actions: data}"
        refuse_ignored_options(self, Q_OPTIONS, why)
        return self

    def build(
        self,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> MonteCarlo:
        return MonteCarlo(self, feature_dim)


class MonteCarlo(ValueLearner):
    """See the config. The metric `v_explained` is the share of the returns' variance that V
    explains."""

    config: MonteCarloConfig
    state_critic: StateCritic

    def __init__(self, config: MonteCarloConfig, feature_dim: int) -> None:
        super().__init__(config)
        self.looks_ahead = config.advantage_steps is not None
        self.lookahead_steps = config.advantage_steps
        # no critic of actions: extractions that ask for Q refuse these values (`require_q`)
        self.state_critic = StateCritic(config.critic, feature_dim, regressed=True)

    def loss(self, now: Transition, lookahead: Lookahead | None) -> ValueLoss:
        returns_BT, mask_BT = now.batch.returns_to_go, now.batch.mask
        # V's target is not bootstrapped: a target copy is not needed
        v_BT, loss_BT = self.state_critic.regression(now.features, returns_BT)
        loss = masked_mean(loss_BT, mask_BT)
        deviation_BT = returns_BT - masked_mean(returns_BT, mask_BT)
        variance = masked_mean(deviation_BT.square(), mask_BT)
        error = masked_mean((v_BT.detach() - returns_BT).square(), mask_BT)
        metrics = {
            "value_loss": loss.detach(),
            "v": masked_mean(v_BT.detach(), mask_BT),
            # at least 1e-8: in a batch of equal returns there is nothing to explain
            "v_explained": 1 - error / variance.clamp(min=1e-8),
        }
        estimates = ValueEstimates(advantage=self._advantage(now, v_BT.detach(), lookahead))
        return ValueLoss(loss, metrics, estimates)

    @torch.no_grad()
    def advantage(self, now: Transition) -> Float[Tensor, "B T"]:
        if now.estimates.advantage is not None:
            return now.estimates.advantage
        return self._advantage(now, self.state_critic(now.features), now.next)

    @torch.no_grad()
    def _advantage(
        self, now: Transition, v_BT: Tensor, lookahead: Lookahead | None
    ) -> Float[Tensor, "B T"]:
        outcome_BT = now.batch.returns_to_go
        if lookahead is not None:
            next_v_BT = self.state_critic(lookahead.transition.features)
            n_step_BT = lookahead.returns + lookahead.bootstrap * next_v_BT
            # an episode that was cut within the n steps has its return alone
            outcome_BT = n_step_BT.where(lookahead.known, outcome_BT)
        return outcome_BT - v_BT


__all__ = ["Q_OPTIONS", "MonteCarlo", "MonteCarloConfig"]
