"""No values: every action of the data counts the same."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vla.config import register
from vla.training.values.base import Lookahead, Moment, ValueConfig, ValueLearner
from vla.types import Spec


@register("values", "none")
class NoneConfig(ValueConfig):
    """Learns no values: for imitation, and for extractions that need none."""

    type: Literal["none"] = "none"

    def build(self, feature_dim: int, spec: Spec, chunk: int) -> NoValues:
        return NoValues(self)


class NoValues(ValueLearner):
    """See the config."""

    def loss(self, now: Moment, later: Lookahead | None) -> tuple[Tensor, dict[str, Tensor]]:
        return now.features.new_zeros(()), {}

    def advantage(self, now: Moment) -> Tensor:
        return now.batch.rewards.new_zeros(now.batch.rewards.shape)


__all__ = ["NoValues", "NoneConfig"]
