"""No values: every action of the data counts the same."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from vla.config import register
from vla.config.ignored_options import refuse_ignored_options
from vla.training.offline_rl.values.base import (
    Lookahead,
    Transition,
    ValueConfig,
    ValueLearner,
    ValueLoss,
)
from vla.types import Spec


@register("values", "none")
class NoneConfig(ValueConfig):
    """Learns no values: for imitation, and for extractions that need none.

    Formula: L = 0, and A(s, a) = 0 for every step. Shapes: A is (B, T).
    """

    type: Literal["none"] = "none"

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> NoneConfig:
        why = "value: none learns no values; drop it, or choose another value"
        refuse_ignored_options(self, ("monte_carlo_floor",), why)
        return self

    def build(
        self,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> NoValues:
        return NoValues(self)


class NoValues(ValueLearner):
    """See the config."""

    # without parameters: the optimiser then moves the policy alone

    def loss(self, now: Transition, lookahead: Lookahead | None) -> ValueLoss:
        return ValueLoss(now.features.new_zeros(()), {})

    def advantage(self, now: Transition) -> Float[Tensor, "B T"]:
        return now.batch.rewards.new_zeros(now.batch.rewards.shape)


__all__ = ["NoValues", "NoneConfig"]
