"""Q-Transformer (Chebotar et al., 2023): temporal differences over action tokens.

B windows, T steps, L places of a chunk, V ids.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import register
from vla.data import Windows
from vla.models.heads.autoregressive import Places
from vla.models.heads.q_values import QValues, QValuesHead
from vla.models.policy import Policy
from vla.training.losses import Metrics
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.priorities import (
    IMPORTANCE,
    PriorityConfig,
    errors_of,
    importance_of,
    shares_of,
)
from vla.training.offline_rl.token_losses import (
    cross_entropy_regulariser,
    mean_over_tokens,
    smoothed_error,
    smoothed_labels,
    token_targets,
    values_of_ids,
    zero_regulariser,
)
from vla.training.offline_rl.token_objective import (
    NStepReturn,
    TokenValueConfig,
    TokenValueObjective,
)
from vla.types import Batch


@register("objectives", "q_transformer")
class QTransformerObjectiveConfig(TokenValueConfig):
    """Offline Q-learning of action tokens, for heads `q_values`. Rewards and returns must lie in
    [0, 1]: for most tasks `data.rewards: {kind: success}`.

    Formula, for the token x_l at place l of L, with target values Q', discount g, chunks of n
    steps, and the return R that the very episode had from s on:

        y_l = max(R, max over v of Q'(s, x_1 .. x_l, v))                             for l < L
        y_L = max(R, r_0 + ... + g^n max over v of Q'(s_n, v))
        (with `double`: Q' of the v that is best by the learning Q)
        L = mean over B, T and L of 1/2 (Q(s, x_1 .. x_l) - y_l)^2
            + conservative_weight * 1/2 mean over the other ids v of Q(s, x_1 .. x_{l-1}, v)^2

    Shapes: Q is (B, T, L, V); x, y and the terms of the loss are (B, T, L).

    Of a head with `bins` the squared error is the cross-entropy of y's histogram.

    Source: Chebotar et al., 2023, "Q-Transformer: scalable offline reinforcement learning via
    autoregressive Q-functions", eq. 2 and 3, section 4.3; `double`: van Hasselt, Guez and Silver,
    2016, eq. 4.
    """

    type: Literal["q_transformer"] = "q_transformer"
    conservative: Literal["zero", "cross_entropy"] = "zero"
    """What keeps untried ids from looking good: zero draws their values to 0 (the paper),
    cross_entropy (CQL) only below those of the data."""
    conservative_weight: float = Field(default=1.0, ge=0)
    """Its weight; 0 trusts every value."""
    conservative_temperature: float = Field(default=0.1, gt=0)
    """Of the soft maximum of cross_entropy."""
    smoothing: float = Field(default=0.0, ge=0)
    """Standard deviation, in ids, of a Gaussian by which neighbours of the data's id learn its
    target too, and are less drawn to 0: neighbouring bins are nearly the same action. 0 for the
    data's id alone, as published."""
    monte_carlo_floor: bool = True
    """No target below the return that the very trajectory had from there on: values then spread
    from the end of an episode to its start at once."""
    dimension_steps: int = Field(default=1, ge=1)
    """How many tokens ahead a token's target looks; more than 1 goes with the data's tokens in
    between."""
    double: bool = False
    """Choose the best next id by the values that learn, and take its value from their slow copy: a
    maximum of one copy takes its own errors for values."""
    priorities: PriorityConfig | None = None
    """Draw windows by the error of their values, in `vla online`; null draws all alike."""

    @property
    def acting_temperature(self) -> float:
        return 0.0  # what is tried beside the best tokens: `act.explore`

    @model_validator(mode="after")
    def _smoothing_has_effect(self) -> QTransformerObjectiveConfig:
        if self.smoothing and self.conservative != "zero":
            raise ValueError(
                "smoothing: neighbours are spared by conservative: zero alone, not by "
                f"{self.conservative}"
            )
        return self

    def build(self, policy: Policy) -> QTransformerObjective:
        """Raises ObjectiveError if the policy's head gives no values, or ids have no order."""
        tokenizer = policy.tokenizer
        # of codes without order a neighbour is a quite different action
        if self.smoothing and tokenizer.ordered_ids is None:
            raise ObjectiveError(
                f"objective.smoothing: neighbouring ids of {type(tokenizer).__name__} are not "
                "neighbours in value; set it to 0, or use policy.tokenizer: {type: bins}"
            )
        return QTransformerObjective(self, policy)


class QTransformerObjective(TokenValueObjective):
    """See the config. Built by `QTransformerObjectiveConfig.build`."""

    config: QTransformerObjectiveConfig
    rounds: Tensor
    # values are sigmoids: rewards beyond [0, 1] could not be learned, and values cannot diverge
    rewards_needed = "unit"

    def __init__(self, config: QTransformerObjectiveConfig, policy: Policy) -> None:
        super().__init__(config, policy, QValuesHead, "q_values")
        self.ordered = policy.tokenizer.ordered_ids if config.smoothing else None
        self.double_q = config.double
        # persistent from here on alone: checkpoints of trainings without it lack the number
        if config.priorities is not None:
            self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))
        self._drawn: tuple[Windows, np.ndarray] | None = None

    @torch.no_grad()
    def begin_round(self, policy: Policy, windows: Windows) -> dict[str, np.ndarray]:
        """Finds the priorities of all windows."""
        priorities = self.config.priorities
        if priorities is None:
            return {}
        self.rounds += 1

        def error(batch: Batch) -> Tensor:
            losses = self.compute_losses(policy, batch)
            # a step's root mean square over its tokens, of the newest step of each window
            return (2 * losses.metrics["td_squared"][:, -1]).sqrt()

        device = next(policy.parameters()).device
        shares = shares_of(errors_of(windows, device, error), priorities.exponent)
        self._drawn = (windows, shares)
        correction = priorities.correction_in(int(self.rounds))
        return {IMPORTANCE: importance_of(shares, correction)}

    def window_weights(self, windows: Windows) -> np.ndarray | None:
        # recordings beside what was played have no priorities, and are drawn alike
        if self._drawn is None or self._drawn[0] is not windows:
            return None
        return self._drawn[1]

    def learn(
        self,
        actions: QValues,
        target: QValues,
        next_target: QValues,
        n_step: NStepReturn,
        now: Batch,
    ) -> tuple[Float[Tensor, "B T"], Metrics]:
        ids_BTD = actions.tokens(now.actions)
        places = actions.places(ids_BTD)
        # L <= D: places that only ever hold padding are left out
        ids_BTL = places.ids.unflatten(0, now.mask.shape)
        counted_BTL = actions.counted(places, now.action_mask)
        q_BTLV = actions.values(ids_BTD, places)
        with torch.no_grad():
            # the greatest Q of the next place is the value of having stood there (eq. 2)
            target_BTLV = target.values(ids_BTD, places)
            first_BTV = next_target.first()
            if self.double_q:
                best_BTL = values_of_ids(target_BTLV, q_BTLV.argmax(-1))
                next_value_BT = values_of_ids(first_BTV, n_step.chosen_by.first().argmax(-1))
            else:
                best_BTL = target_BTLV.amax(-1)
                next_value_BT = first_BTV.amax(-1)
            targets = token_targets(
                best_BTL,
                n_step.target(next_value_BT),
                n_step.known,
                counted_BTL,
                floor=now.returns_to_go if self.config.monte_carlo_floor else None,
                steps=self.config.dimension_steps,
            )
        V, width = q_BTLV.shape[-1], self.config.smoothing
        labels_BTLV = smoothed_labels(ids_BTL, V, width=width, ordered=self.ordered)
        squared_BTL = smoothed_error(q_BTLV, targets.values, labels_BTLV)
        error_BTL = squared_BTL
        if actions.head.bins is not None:
            error_BTL = self._cross_entropy(actions, ids_BTD, places, targets.values, labels_BTLV)
        # an unknown target gives no error, but the conservative term: that needs no outcome
        loss_BT = mean_over_tokens(error_BTL.where(targets.known, 0.0), counted_BTL)
        conservative_BTL = self._conservative(q_BTLV, ids_BTL, labels_BTLV)
        conservative_BT = mean_over_tokens(conservative_BTL, counted_BTL)
        q_data_BTL = values_of_ids(q_BTLV, ids_BTL)
        above_BTL = q_data_BTL - now.returns_to_go.unsqueeze(-1)
        return loss_BT + self.config.conservative_weight * conservative_BT, {
            "td_error": loss_BT,
            **self._squared(squared_BTL, targets.known, counted_BTL),
            "conservative": conservative_BT,
            "q_data": mean_over_tokens(q_data_BTL, counted_BTL),
            "q_max": mean_over_tokens(q_BTLV.amax(-1), counted_BTL),
            "q_minus_return": mean_over_tokens(above_BTL, counted_BTL),
            "monte_carlo_floor": mean_over_tokens(targets.raised.float(), targets.known),
        }

    def _squared(
        self, squared_BTL: Tensor, known_BTL: Tensor, counted_BTL: Tensor
    ) -> dict[str, Tensor]:
        """What priorities are made of, also where the loss is another one."""
        if self.config.priorities is None:
            return {}
        return {"td_squared": mean_over_tokens(squared_BTL.where(known_BTL, 0.0), counted_BTL)}

    @staticmethod
    def _cross_entropy(
        actions: QValues,
        ids_BTD: Tensor,
        places: Places,
        targets_BTL: Tensor,
        labels_BTLV: Tensor,
    ) -> Float[Tensor, "B T L"]:
        """Of the targets under the distributions of the data's ids, a mean by `labels_BTLV`."""
        bins = actions.head.bins
        assert bins is not None
        logits_BTLVM = actions.bin_logits(ids_BTD, places)
        errors_BTLV = bins.cross_entropy(
            logits_BTLVM, targets_BTL.unsqueeze(-1).expand(labels_BTLV.shape)
        )
        possible_BTLV = torch.isfinite(actions.values(ids_BTD, places))
        weight_BTLV = labels_BTLV * possible_BTLV
        return (weight_BTLV * errors_BTLV).sum(-1) / weight_BTLV.sum(-1)

    def _conservative(
        self, q_BTLV: Tensor, ids_BTL: Tensor, labels_BTLV: Tensor
    ) -> Float[Tensor, "B T L"]:
        if self.config.conservative == "zero":
            return zero_regulariser(q_BTLV, labels_BTLV)
        temperature = self.config.conservative_temperature
        return cross_entropy_regulariser(q_BTLV, ids_BTL, temperature=temperature)


__all__ = ["QTransformerObjective", "QTransformerObjectiveConfig"]
