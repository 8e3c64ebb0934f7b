"""V by regression on what the data's episodes brought in the end (the value part of AWR; Peng et al., 2019)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vla.config import register
from vla.models.critics import StateCritic
from vla.training.losses import masked_mean
from vla.training.values.base import Lookahead, Moment, ValueConfig, ValueLearner
from vla.types import Spec


@register("values", "monte_carlo")
class MonteCarloConfig(ValueConfig):
    """V regressed on the returns to go; an action's advantage is its return above V. It never stitches episodes."""

    type: Literal["monte_carlo"] = "monte_carlo"

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
            (now.batch.returns_to_go - masked_mean(now.batch.returns_to_go, now.batch.mask)).square(), now.batch.mask
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
