"""ILQL (Snell et al., 2023): implicit Q-learning over action tokens, beside imitation.

At each token V leans by its expectile towards the better of what was done there, and Q of what was done is V of the place
after it; at the last token of a chunk it is the reward and the discounted V a chunk later. Neither asks for the value of an
id that was not tried. The logits only imitate: the head `ilql` brings both together when it decodes.

B windows, T steps, L places of a chunk, E Q networks.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.heads.ilql import ILQLActions, ILQLHead
from vla.models.policy import Policy
from vla.training.losses import discrete_conservative_gap, expectile_loss
from vla.training.offline_rl.token_losses import mean_over_tokens, of_ids, token_targets
from vla.training.offline_rl.token_objective import Outcome, TokenValueConfig, TokenValueObjective
from vla.types import Batch


@register("objectives", "ilql")
class ILQLConfig(TokenValueConfig):
    """Implicit Q-learning of action tokens, for heads `ilql`."""

    type: Literal["ilql"] = "ilql"
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """Of V: 0.5 values what the data do on average, near 1 the best of what they do (and the luckiest)."""
    conservative_weight: float = Field(default=0.01, ge=0)
    """Weight of the cross-entropy (CQL) that keeps Q of other ids below that of the data."""
    imitation_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of the logits."""

    def build(self, policy: Policy) -> ILQL:
        """Raises ObjectiveError where the policy's head gives no values."""
        return ILQL(self, policy)


class ILQL(TokenValueObjective):
    """See the module's docstring. Built by `ILQLConfig.build`."""

    config: ILQLConfig

    def __init__(self, config: ILQLConfig, policy: Policy) -> None:
        super().__init__(config, policy, ILQLHead, "ilql")

    def learn(
        self,
        actions: ILQLActions,
        target: ILQLActions,
        later: ILQLActions,
        outcome: Outcome,
        now: Batch,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ids_BTD = actions.tokens(now.actions)
        places = actions.places(ids_BTD)
        ids_BTL, counted_BTL = (
            places.ids.unflatten(0, now.mask.shape),
            actions.counted(places, now.action_mask),
        )
        told = actions.values(ids_BTD, places)
        ids_EBTL = ids_BTL.expand(len(told.q), *ids_BTL.shape)
        q_EBTL = of_ids(told.q, ids_EBTL)
        with torch.no_grad():
            target_q_BTL = of_ids(target.values(ids_BTD, places).q, ids_EBTL).min(0).values
            targets = token_targets(
                told.v, outcome.target(later.state_value()), outcome.known, counted_BTL
            )
        error_BTL = 0.5 * (q_EBTL - targets.values).square().mean(0).where(targets.known, 0.0)
        terms = {
            "td_error": error_BTL,
            "value_loss": expectile_loss(target_q_BTL - told.v, self.config.expectile),
            "conservative": discrete_conservative_gap(
                told.q, ids_EBTL, torch.isfinite(told.logits)
            ).mean(0),
            "imitation": -of_ids(told.logits.log_softmax(-1), ids_BTL),
        }
        means = {
            name: mean_over_tokens(values_BTL, counted_BTL) for name, values_BTL in terms.items()
        }
        with torch.no_grad():
            right_BTL = told.scores(actions.head.config.beta).argmax(-1) == ids_BTL
        loss_BT = (
            means["td_error"]
            + means["value_loss"]
            + self.config.conservative_weight * means["conservative"]
        )
        return loss_BT + self.config.imitation_weight * means["imitation"], {
            **means,
            "q_data": mean_over_tokens(q_EBTL.min(0).values, counted_BTL),
            "q_minus_return": mean_over_tokens(
                q_EBTL.min(0).values - now.returns_to_go.unsqueeze(-1), counted_BTL
            ),
            "value": mean_over_tokens(told.v, counted_BTL),
            "advantage": mean_over_tokens(target_q_BTL - told.v, counted_BTL),
            "token_accuracy": mean_over_tokens(right_BTL.float(), counted_BTL),
        }


__all__ = ["ILQL", "ILQLConfig"]
