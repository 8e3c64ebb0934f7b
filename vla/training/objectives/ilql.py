"""ILQL (Snell et al., 2023): implicit Q-learning over action tokens, beside imitation.

B windows, T steps, L places of a chunk, V ids, E Q networks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.heads.ilql import ILQLActions, ILQLHead
from vla.models.policy import Policy
from vla.training.losses import Metrics, discrete_conservative_gap, expectile_loss
from vla.training.offline_rl.token_losses import mean_over_tokens, token_targets, values_of_ids
from vla.training.offline_rl.token_objective import (
    NStepReturn,
    TokenValueConfig,
    TokenValueObjective,
)
from vla.types import Batch


@register("objectives", "ilql")
class ILQLConfig(TokenValueConfig):
    """Implicit Q-learning of action tokens, for heads `ilql`.

    At each token V leans by its expectile towards the better of what was done there, and Q of what
    was done is V of the place after it; at the last token of a chunk it is the reward and the
    discounted V a chunk later. Neither asks for the value of an id that was not tried. The logits
    only imitate: the head `ilql` adds beta (Q' - V) to them when it decodes, with the slow copy Q'
    that the targets of V are of. Formula, for the token
    x_l at place l of L after x_1 .. x_{l-1}, with tau = `expectile`, the least target Q', discount
    g, and chunks of n steps:

        y_l = V(s, x_1 .. x_l) for l < L,    y_L = r_0 + ... + g^n V(s_n)
        L = 1/2 (Q(x_l) - y_l)^2 + |tau - 1(u < 0)| u^2              with u = Q'(x_l) - V
            + conservative_weight * (logsumexp over v of Q(v) - Q(x_l))
            + imitation_weight * -log pi(x_l)                        mean over B, T and L

    Shapes: Q is (E, B, T, L, V), logits (B, T, L, V); x, y and V are (B, T, L).

    Source: Snell, Kostrikov, Su, Yang and Levine, 2023, "Offline RL for natural language generation
    with implicit language Q learning".
    """

    type: Literal["ilql"] = "ilql"
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """Of V: 0.5 values what the data do on average, near 1 the best of what they do (and the
    luckiest)."""
    conservative_weight: float = Field(default=0.01, ge=0)
    """Weight of the cross-entropy (CQL) that keeps Q of other ids below that of the data."""
    imitation_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of the logits."""

    def build(self, policy: Policy) -> ILQL:
        """Raises ObjectiveError if the policy's head gives no values."""
        return ILQL(self, policy)


class ILQL(TokenValueObjective):
    """See the config. Built by `ILQLConfig.build`."""

    config: ILQLConfig

    def __init__(self, config: ILQLConfig, policy: Policy) -> None:
        super().__init__(config, policy, ILQLHead, "ilql")
        for module in self.target.modules():
            if isinstance(module, ILQLHead):
                module.slow = None  # the target is that copy: it needs none of its own

    def after_step(self, policy: Policy) -> None:
        super().after_step(policy)
        target: Any = self.target.network
        head = target if self.config.target == "head" else target.head
        # What acts holds the Q that it acts by. A whole policy's copy gives it its head's weights,
        # which the head then reads with the trunk that acts.
        cast(ILQLHead, policy.head).update_slow(head)

    def learn(
        self,
        actions: ILQLActions,
        target: ILQLActions,
        next_target: ILQLActions,
        n_step: NStepReturn,
        now: Batch,
    ) -> tuple[Float[Tensor, "B T"], Metrics]:
        ids_BTD = actions.tokens(now.actions)
        places = actions.places(ids_BTD)
        # L <= D: places that only ever hold padding are left out
        ids_BTL = places.ids.unflatten(0, now.mask.shape)
        counted_BTL = actions.counted(places, now.action_mask)
        outputs = actions.values(ids_BTD, places)
        ids_EBTL = ids_BTL.expand(len(outputs.q), *ids_BTL.shape)
        q_EBTL = values_of_ids(outputs.q, ids_EBTL)
        with torch.no_grad():
            target_q = target.values(ids_BTD, places).q
            target_q_EBTL = values_of_ids(target_q, ids_EBTL)
            target_q_BTL = target_q_EBTL.min(0).values
            # inside the chunk V is of the head that learns, a chunk later of the copy
            outcome_BT = n_step.target(next_target.state_value())
            targets = token_targets(outputs.v, outcome_BT, n_step.known, counted_BTL)
        squared_EBTL = (q_EBTL - targets.values).square()
        error_BTL = 0.5 * squared_EBTL.mean(0)
        value_error_BTL = target_q_BTL - outputs.v
        # ids that may not stand there have logits of minus infinity; Q of them is any number
        possible_BTLV = torch.isfinite(outputs.logits)
        gap_EBTL = discrete_conservative_gap(outputs.q, ids_EBTL, possible_BTLV)
        log_prob_BTL = values_of_ids(outputs.logits.log_softmax(-1), ids_BTL)
        terms = {
            "td_error": error_BTL.where(targets.known, 0.0),
            "value_loss": expectile_loss(value_error_BTL, self.config.expectile),
            "conservative": gap_EBTL.mean(0),
            "imitation": -log_prob_BTL,
        }
        means = {name: mean_over_tokens(term, counted_BTL) for name, term in terms.items()}
        loss_BT = (
            means["td_error"]
            + means["value_loss"]
            + self.config.conservative_weight * means["conservative"]
            + self.config.imitation_weight * means["imitation"]
        )
        with torch.no_grad():
            # by the scores that decoding uses, which imitation alone does not fix
            scores_BTLV = replace(outputs, q=target_q).scores(actions.head.config.beta)
            accurate_BTL = scores_BTLV.argmax(-1) == ids_BTL
        # the least of the ensemble, as in the targets
        q_data_BTL = q_EBTL.min(0).values
        above_BTL = q_data_BTL - now.returns_to_go.unsqueeze(-1)
        return loss_BT, {
            **means,
            "q_data": mean_over_tokens(q_data_BTL, counted_BTL),
            "q_minus_return": mean_over_tokens(above_BTL, counted_BTL),
            "value": mean_over_tokens(outputs.v, counted_BTL),
            "advantage": mean_over_tokens(value_error_BTL, counted_BTL),
            "token_accuracy": mean_over_tokens(accurate_BTL.float(), counted_BTL),
        }


__all__ = ["ILQL", "ILQLConfig"]
