"""Imitation beside values: the policy does not hear of them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import masked_mean
from vla.training.offline_rl.extractions.base import Extraction, ExtractionConfig, imitation
from vla.training.offline_rl.values.base import Moment, ValueLearner


@register("extractions", "bc")
class BCExtractionConfig(ExtractionConfig):
    """Imitates all of the data; the values are learned for their own sake (to be looked at, or to decide by)."""

    type: Literal["bc"] = "bc"

    def build(self, policy: Policy, value: ValueLearner) -> BCExtraction:
        return BCExtraction()


class BCExtraction(Extraction):
    """See the config."""

    def loss(self, now: Moment, value: ValueLearner) -> tuple[Tensor, dict[str, Tensor]]:
        loss = masked_mean(imitation(now), now.batch.mask)
        return loss, {"bc_loss": loss.detach()}


__all__ = ["BCExtraction", "BCExtractionConfig"]
