"""No values: every action of the data counts the same."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from torch import Tensor

from vla.config import register
from vla.training.offline_rl.ignored_options import refuse_unused
from vla.training.offline_rl.values.base import Lookahead, Moment, ValueConfig, ValueLearner
from vla.types import Spec


@register("values", "none")
class NoneConfig(ValueConfig):
    """Learns no values: for imitation, and for extractions that need none."""

    type: Literal["none"] = "none"

    @model_validator(mode="after")
    def _used(self) -> NoneConfig:
        refuse_unused(
            self,
            ("monte_carlo_floor",),
            "value: none learns no values; drop it, or choose another value",
        )
        return self

    def build(self, feature_dim: int, spec: Spec, chunk: int) -> NoValues:
        return NoValues(self)


class NoValues(ValueLearner):
    """See the config."""

    def loss(self, now: Moment, later: Lookahead | None) -> tuple[Tensor, dict[str, Tensor]]:
        return now.features.new_zeros(()), {}

    def advantage(self, now: Moment) -> Tensor:
        return now.batch.rewards.new_zeros(now.batch.rewards.shape)


__all__ = ["NoValues", "NoneConfig"]
