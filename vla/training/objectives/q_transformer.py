"""Q-Transformer (Chebotar et al., 2023): temporal differences over action tokens, with a floor and a ceiling.

The loss of a token whose value is Q and whose target is y (see `vla.training.offline_rl.token_losses`):

    1/2 (Q - y)^2 + weight * 1/2 mean over the other ids of Q^2

B windows, T steps, L places of a chunk.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import register
from vla.models.heads.q_values import QValues, QValuesHead
from vla.models.policy import Policy
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.token_losses import (
    error_of_kin,
    kinship,
    mean_over_tokens,
    of_ids,
    others_below,
    others_towards_zero,
    token_targets,
)
from vla.training.offline_rl.token_objective import Outcome, TokenValueConfig, TokenValueObjective
from vla.types import Batch


@register("objectives", "q_transformer")
class QTransformerObjectiveConfig(TokenValueConfig):
    """Offline Q-learning of action tokens, for heads `q_values`. Rewards and returns must lie in [0, 1]: for most tasks
    `data.rewards: {kind: success}`."""

    type: Literal["q_transformer"] = "q_transformer"
    conservative: Literal["zero", "cross_entropy"] = "zero"
    """What keeps untried ids from looking good: zero draws their values to 0 (the paper), cross_entropy (CQL) only below
    those of the data."""
    conservative_weight: float = Field(default=1.0, ge=0)
    """Its weight; 0 trusts every value."""
    conservative_temperature: float = Field(default=0.1, gt=0)
    """Of the soft maximum of cross_entropy."""
    smoothing: float = Field(default=0.0, ge=0)
    """Standard deviation, in ids, of a Gaussian by which neighbours of the data's id learn its target too, and are less drawn to
    0: neighbouring bins are nearly the same action. 0 for the data's id alone, as published."""
    monte_carlo_floor: bool = True
    """No target below the return that the very trajectory had from there on: values then spread from the end of an episode
    to its start at once."""
    dimension_steps: int = Field(default=1, ge=1)
    """How many tokens ahead a token's target looks; more than 1 goes with the data's tokens in between."""

    @model_validator(mode="after")
    def _smooth(self) -> QTransformerObjectiveConfig:
        if self.smoothing and self.conservative != "zero":
            raise ValueError(
                f"smoothing: neighbours are spared by conservative: zero alone, not by {self.conservative}"
            )
        return self

    def build(self, policy: Policy) -> QTransformerObjective:
        """Raises ObjectiveError where the policy's head gives no values, or ids have no order to be smoothed over."""
        tokenizer = policy.tokenizer
        if self.smoothing and tokenizer.ordered_ids is None:
            raise ObjectiveError(
                f"objective.smoothing: neighbouring ids of {type(tokenizer).__name__} are not neighbours in value; set it to "
                "0, or use policy.tokenizer: {type: bins}"
            )
        return QTransformerObjective(self, policy)


class QTransformerObjective(TokenValueObjective):
    """See the module's docstring. Built by `QTransformerObjectiveConfig.build`."""

    config: QTransformerObjectiveConfig
    rewards_needed = "unit"

    def __init__(self, config: QTransformerObjectiveConfig, policy: Policy) -> None:
        super().__init__(config, policy, QValuesHead, "q_values")
        self.ordered = policy.tokenizer.ordered_ids if config.smoothing else None

    def learn(
        self, actions: QValues, target: QValues, later: QValues, outcome: Outcome, now: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ids_BTD = actions.tokens(now.actions)
        places = actions.places(ids_BTD)
        ids_BTL, counted_BTL = (
            places.ids.unflatten(0, now.mask.shape),
            actions.counted(places, now.action_mask),
        )
        q_BTLV = actions.values(ids_BTD, places)
        with torch.no_grad():
            targets = token_targets(
                target.values(ids_BTD, places).amax(-1),
                outcome.target(later.first().amax(-1)),
                outcome.known,
                counted_BTL,
                floor=now.returns_to_go if self.config.monte_carlo_floor else None,
                steps=self.config.dimension_steps,
            )
        q_BTL = of_ids(q_BTLV, ids_BTL)
        kin_BTLV = kinship(
            ids_BTL, q_BTLV.shape[-1], width=self.config.smoothing, ordered=self.ordered
        )
        error_BTL = error_of_kin(q_BTLV, targets.values, kin_BTLV)
        loss_BT = mean_over_tokens(error_BTL.where(targets.known, 0.0), counted_BTL)
        conservative_BT = mean_over_tokens(
            self._conservative(q_BTLV, ids_BTL, kin_BTLV), counted_BTL
        )
        return loss_BT + self.config.conservative_weight * conservative_BT, {
            "td_error": loss_BT,
            "conservative": conservative_BT,
            "q_data": mean_over_tokens(q_BTL, counted_BTL),
            "q_max": mean_over_tokens(q_BTLV.amax(-1), counted_BTL),
            "q_minus_return": mean_over_tokens(
                q_BTL - now.returns_to_go.unsqueeze(-1), counted_BTL
            ),
            "monte_carlo_floor": mean_over_tokens(targets.raised.float(), targets.known),
        }

    def _conservative(self, q_BTLV: Tensor, ids_BTL: Tensor, kin_BTLV: Tensor) -> Tensor:
        if self.config.conservative == "zero":
            return others_towards_zero(q_BTLV, kin_BTLV)
        return others_below(q_BTLV, ids_BTL, temperature=self.config.conservative_temperature)


__all__ = ["QTransformerObjective", "QTransformerObjectiveConfig"]
