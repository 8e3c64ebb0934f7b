"""V by regression on the returns of the data's episodes.

B windows, T steps.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from vla.config import register
from vla.models.critics import StateCritic
from vla.training.losses import masked_mean
from vla.training.offline_rl.ignored_options import refuse_ignored_options
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
    """V regressed on the returns to go; an action's advantage is its return above V.

    It never stitches episodes. The return of an episode that was truncated stops at the cut: with
    negative rewards an early cut looks good. Formula, with the discounted return to go R:

        L_V = mean over B, T of (V(s_t) - R_t)^2
        A(s_t, a_t) = R_t - V(s_t)

    Shapes: V, R and A are (B, T).

    Source: the value part of AWR; Peng et al., 2019, "Advantage-weighted regression", algorithm 1.
    """

    type: Literal["monte_carlo"] = "monte_carlo"

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

    state_critic: StateCritic

    def __init__(self, config: MonteCarloConfig, feature_dim: int) -> None:
        super().__init__(config)
        # no critic of actions: extractions that ask for Q refuse these values (`require_q`)
        self.state_critic = StateCritic(config.critic, feature_dim)

    def loss(self, now: Transition, lookahead: Lookahead | None) -> ValueLoss:
        returns_BT, mask_BT = now.batch.returns_to_go, now.batch.mask
        # nothing is bootstrapped: neither a lookahead nor a target copy is needed
        v_BT = self.state_critic(now.features)
        loss = masked_mean((v_BT - returns_BT).square(), mask_BT)
        deviation_BT = returns_BT - masked_mean(returns_BT, mask_BT)
        variance = masked_mean(deviation_BT.square(), mask_BT)
        metrics = {
            "value_loss": loss.detach(),
            "v": masked_mean(v_BT.detach(), mask_BT),
            # at least 1e-8: in a batch of equal returns there is nothing to explain
            "v_explained": 1 - loss.detach() / variance.clamp(min=1e-8),
        }
        return ValueLoss(loss, metrics, ValueEstimates(advantage=returns_BT - v_BT.detach()))

    @torch.no_grad()
    def advantage(self, now: Transition) -> Float[Tensor, "B T"]:
        if now.estimates.advantage is not None:
            return now.estimates.advantage
        return now.batch.returns_to_go - self.state_critic(now.features)


__all__ = ["Q_OPTIONS", "MonteCarlo", "MonteCarloConfig"]
