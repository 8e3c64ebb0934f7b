"""V by regression on what the data's episodes brought in the end (the value part of AWR; Peng et al., 2019)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from vla.config import register
from vla.models.critics import StateCritic
from vla.training.losses import masked_mean
from vla.training.offline_rl.ignored_options import refuse_unused
from vla.training.offline_rl.values.base import Lookahead, Moment, ValueConfig, ValueLearner
from vla.types import Spec

UNUSED = ("monte_carlo_floor", "target_rate", "critic.ensemble")
"""What only values of actions have."""


@register("values", "monte_carlo")
class MonteCarloConfig(ValueConfig):
    """V regressed on the returns to go; an action's advantage is its return above V. It never stitches episodes. The return of
    an episode that was cut off stops at the cut: with negative rewards an early cut looks good."""

    type: Literal["monte_carlo"] = "monte_carlo"

    @model_validator(mode="after")
    def _used(self) -> MonteCarloConfig:
        refuse_unused(
            self,
            UNUSED,
            "monte_carlo learns no Q; drop it, or use value: {type: td, next_actions: data}",
        )
        return self

    def build(self, feature_dim: int, spec: Spec, chunk: int) -> MonteCarlo:
        return MonteCarlo(self, feature_dim)


class MonteCarlo(ValueLearner):
    """See the config."""

    state_critic: StateCritic

    def __init__(self, config: MonteCarloConfig, feature_dim: int) -> None:
        super().__init__(config)
        self.state_critic = StateCritic(config.critic, feature_dim)

    def loss(self, now: Moment, later: Lookahead | None) -> tuple[Tensor, dict[str, Tensor]]:
        values = self.state_critic(now.features)
        loss = masked_mean((values - now.batch.returns_to_go).square(), now.batch.mask)
        spread = masked_mean(
            (
                now.batch.returns_to_go - masked_mean(now.batch.returns_to_go, now.batch.mask)
            ).square(),
            now.batch.mask,
        )
        explained = 1 - loss.detach() / spread.clamp(min=1e-8)
        return loss, {
            "value_loss": loss.detach(),
            "v": masked_mean(values.detach(), now.batch.mask),
            "v_explained": explained,
        }

    @torch.no_grad()
    def advantage(self, now: Moment) -> Tensor:
        return now.batch.returns_to_go - self.state_critic(now.features)


__all__ = ["MonteCarlo", "MonteCarloConfig"]
