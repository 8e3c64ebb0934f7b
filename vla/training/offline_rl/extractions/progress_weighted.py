"""Imitation of each chunk by the progress that it makes.

B windows, T steps, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import effective_sample_size, masked_mean, masked_means
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    ExtractionLoss,
    imitation,
)
from vla.training.offline_rl.values.base import Transition, ValueLearner
from vla.training.offline_rl.values.progress import Progress

_RATE = 0.01  # of the running means: about the last hundred steps count


@register("extractions", "progress_weighted")
class ProgressWeightedConfig(ExtractionConfig):
    """The loss of imitation, weighted by the progress that a chunk makes.

    Formula, with the progress d of the chunk, its running mean m and deviation s:

        w = 1                                          if d > kappa
            clip((d - (m - 2 s)) / (4 s), 0, 1)        if 0 <= d <= kappa
            0                                          if d < 0
        L = mean over B, T of w / (running mean of w) * -log pi(a | s)

    Shapes: d, w and the loss of imitation are (B, T); a is (B, T, K, A).

    Source: RA-BC; Chen et al., 2025, "SARM: stage-aware reward modeling for long horizon robot
    manipulation", arXiv:2509.25358, eq. 8 and 9.
    """

    type: Literal["progress_weighted"] = "progress_weighted"
    kappa: float = Field(default=0.01, ge=0, lt=1)
    """Progress above which a chunk counts fully. The task is 1: a demonstration of 200 steps makes
    0.02 in a chunk of 4."""

    def build(self, policy: Policy, value: ValueLearner) -> ProgressWeighted:
        """Raises ObjectiveError if the values are none of progress."""
        if not isinstance(value, Progress):
            raise ObjectiveError(
                "objective.extraction: progress_weighted weighs by progress from 0 to 1; use "
                "value: {type: progress}, or extraction: {type: weighted_bc}"
            )
        return ProgressWeighted(self)


class ProgressWeighted(Extraction):
    """See the config. The running means are of one process each; they differ little."""

    made: Tensor
    square: Tensor
    weight: Tensor
    seen: Tensor

    def __init__(self, config: ProgressWeightedConfig) -> None:
        super().__init__()
        self.config = config
        for name in ("made", "square", "weight", "seen"):
            self.register_buffer(name, torch.zeros(()))

    def loss(self, now: Transition, value: ValueLearner) -> ExtractionLoss:
        mask_BT = now.batch.mask
        made_BT = value.advantage(now)
        if self.training:
            self.seen += 1
        mean = self._running(self.made, masked_mean(made_BT, mask_BT))
        square = self._running(self.square, masked_mean(made_BT.square(), mask_BT))
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        weight_BT = progress_weights(made_BT, mean, deviation, kappa=self.config.kappa)
        scale = self._running(self.weight, masked_mean(weight_BT, mask_BT)).clamp(min=1e-3)
        imitated_BT = imitation(now)
        # by the running mean, not by the batch's own sum: the gradient must not depend on how a
        # batch was divided among processes
        used_BT = weight_BT / scale
        loss = masked_mean(used_BT * imitated_BT, mask_BT)
        columns = {
            "bc_loss": imitated_BT.detach(),
            "weight": weight_BT,
            "progress_made": made_BT,
            "share_left_out": (weight_BT == 0).float(),
        }
        metrics = masked_means(columns, mask_BT)
        metrics["weight_ess"] = effective_sample_size(weight_BT, mask_BT)
        return ExtractionLoss(loss, metrics, used_BT)

    @torch.no_grad()
    def _running(self, average: Tensor, now: Tensor) -> Tensor:
        """The running average, in training moved in place; held-out data must not move it."""
        if self.training:
            # a plain mean of the first hundred steps, then about the last hundred
            average += max(_RATE, 1 / float(self.seen)) * (now - average)
        return average.clone()


def progress_weights(
    made: Float[Tensor, "B T"],
    mean: Tensor,
    deviation: Tensor,
    *,
    kappa: float,
) -> Float[Tensor, "B T"]:
    """Weights in [0, 1] of the progress made; see the config."""
    soft = ((made - (mean - 2 * deviation)) / (4 * deviation + 1e-6)).clamp(0, 1)
    weights = torch.ones_like(made).where(made > kappa, soft)
    return weights.where(made >= 0, 0.0)


__all__ = ["ProgressWeighted", "ProgressWeightedConfig", "progress_weights"]
