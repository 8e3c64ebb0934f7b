"""Imitation beside values, which the policy does not see.

B windows, T steps, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import Metrics, masked_mean
from vla.training.offline_rl.extractions.base import Extraction, ExtractionConfig, imitation
from vla.training.offline_rl.values.base import Transition, ValueLearner


@register("extractions", "bc")
class BCExtractionConfig(ExtractionConfig):
    """Imitates all of the data; the values are learned for their own sake (to look at, or to act
    by).

    Formula: L = mean over B, T of -log pi(a | s), or what the head has in place of it.

    Shapes: a is (B, T, K, A), its loss (B, T).

    Source: Pomerleau, 1989, "ALVINN" (behavioural cloning).
    """

    type: Literal["bc"] = "bc"

    def build(self, policy: Policy, value: ValueLearner) -> BCExtraction:
        return BCExtraction()


class BCExtraction(Extraction):
    """See the config."""

    def loss(self, now: Transition, value: ValueLearner) -> tuple[Tensor, Metrics]:
        loss = masked_mean(imitation(now), now.batch.mask)
        return loss, {"bc_loss": loss.detach()}


__all__ = ["BCExtraction", "BCExtractionConfig"]
