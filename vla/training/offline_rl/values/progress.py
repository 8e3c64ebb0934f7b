"""How far along a task is, from 0 to 1: the share of the time to success that lies behind.

B windows, T steps, K actions per chunk.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from vla.config import register
from vla.config.ignored_options import refuse_ignored_options
from vla.data import Windows
from vla.models.critics import StateCritic
from vla.training.losses import masked_mean
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.values.base import (
    Lookahead,
    Transition,
    ValueConfig,
    ValueEstimates,
    ValueLearner,
    ValueLoss,
)
from vla.training.offline_rl.values.monte_carlo import Q_OPTIONS
from vla.types import Batch, Spec

LEAST_RETURN = 1e-30
"""Returns are read as times by their logarithm; a float32 below this is rounding."""


@register("values", "progress")
class ProgressConfig(ValueConfig):
    """P regressed on the share of the time to success that has passed; an action's advantage is the
    progress that its chunk makes.

    Learned from solved episodes alone, and asked of all: where an episode goes wrong, P stands
    still or falls. Needs rewards of success alone (`data.rewards: {kind: success}`) and a discount
    below 1, whose returns say how far off the success is. Formula, with n steps from s_t to the
    success, and chunks of K actions:

        L_P = mean over B, T of (P(s_t) - t / (t + n))^2,    of solved episodes
        A(s_t, a_t) = P(s_{t+K}) - P(s_t),    P = 1 after a success, 0 after an end without one

    A step whose episode is cut off within the chunk has the advantage 0.

    Shapes: P, n and A are (B, T).

    Source: time to success as in Physical Intelligence, 2025, pi*0.6, eq. 5; progress in [0, 1] and
    its difference over a chunk as in Chen et al., 2025, "SARM: stage-aware reward modeling for long
    horizon robot manipulation", arXiv:2509.25358.
    """

    type: Literal["progress"] = "progress"

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> ProgressConfig:
        why = "progress learns no Q; drop it, or use value: {type: expectile}"
        refuse_ignored_options(self, Q_OPTIONS, why)
        return self

    def build(
        self,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> Progress:
        return Progress(self, feature_dim)


class Progress(ValueLearner):
    """See the config."""

    state_critic: StateCritic
    looks_ahead = True

    def __init__(self, config: ProgressConfig, feature_dim: int) -> None:
        super().__init__(config)
        self.state_critic = StateCritic(config.critic, feature_dim, regressed=True)

    def check(self, windows: Windows) -> None:
        # a reward of 1, at a step that ends the task: its discounted return is a time
        rewarded_N = windows.rewards != 0
        of_success_N = (windows.rewards == 1) & windows.terminals
        others = int((rewarded_N & ~of_success_N).sum())
        if others:
            raise ObjectiveError(
                f"objective: progress reads times to success from returns, but {others} rewards of "
                f"{windows.dataset.root} are not 1 at the end of a solved task; set data.rewards: "
                "{kind: success}"
            )
        if self.discount == 1:
            raise ObjectiveError(
                "objective.discount: 1: without a discount all successes look equally far off; set "
                "discount: 0.99"
            )

    def progress(self, features: Float[Tensor, "B T F"]) -> Float[Tensor, "B T"]:
        """P, in [0, 1]."""
        return self.state_critic(features).clamp(0, 1)

    def loss(self, now: Transition, lookahead: Lookahead | None) -> ValueLoss:
        assert lookahead is not None
        # unsolved episodes have no time to success
        known_BT = (now.batch.returns_to_go > 0) & now.batch.mask
        target_BT = self.target(now.batch)
        progress_BT, loss_BT = self.state_critic.regression(now.features, target_BT)
        loss = masked_mean(loss_BT.where(known_BT, 0.0), now.batch.mask)
        detached_BT = progress_BT.detach().clamp(0, 1)
        metrics = {
            "value_loss": loss.detach(),
            "v": masked_mean(detached_BT, now.batch.mask),
            "progress_error": masked_mean((detached_BT - target_BT).abs(), known_BT),
        }
        made_BT = self._made(detached_BT, lookahead)
        return ValueLoss(loss, metrics, ValueEstimates(advantage=made_BT))

    def target(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The share of the time to success that has passed; nothing of unsolved episodes."""
        # the return of one success n steps ahead is discount^n
        log_return_BT = batch.returns_to_go.clamp(min=LEAST_RETURN).log()
        ahead_BT = (log_return_BT / math.log(self.discount)).clamp(min=0)
        passed_BT = batch.timesteps.float()
        total_BT = passed_BT + ahead_BT
        # an episode that is solved as it begins is at its end
        return (passed_BT / total_BT.clamp(min=1e-6)).where(total_BT > 0, 1.0)

    @torch.no_grad()
    def advantage(self, now: Transition) -> Float[Tensor, "B T"]:
        if now.estimates.advantage is not None:
            return now.estimates.advantage
        if now.next is None:
            raise ObjectiveError(
                "objective: progress over a chunk needs what follows it; give Transition.next"
            )
        return self._made(self.progress(now.features), now.next)

    @torch.no_grad()
    def _made(self, progress_BT: Tensor, lookahead: Lookahead) -> Float[Tensor, "B T"]:
        """Progress made over the chunk."""
        later_BT = self.progress(lookahead.transition.features)
        # the task ended within the chunk: with a reward it is solved
        ended_BT = lookahead.bootstrap == 0
        later_BT = (lookahead.returns > 0).float().where(ended_BT, later_BT)
        return (later_BT - progress_BT).where(lookahead.known, 0.0)


__all__ = ["Progress", "ProgressConfig"]
