"""Imitation of each action by how much better it is than usual: exp(beta * advantage).

B windows, T steps, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import (
    advantage_weights,
    effective_sample_size,
    masked_mean,
    masked_means,
)
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    ExtractionLoss,
    imitation,
)
from vla.training.offline_rl.values.base import Transition, ValueLearner
from vla.training.offline_rl.values.none import NoValues

_RATE = 0.01  # of the running deviation: about the last hundred steps count


@register("extractions", "weighted_bc")
class WeightedBCConfig(ExtractionConfig):
    """The loss of imitation, weighted by exp(beta * advantage).

    One weight per step, shared by all its action tokens, so that every head can be used. Formula,
    with the advantage A of the value part:

        w = min(exp(beta * A(s, a) / c), max_weight)
        L = mean over B, T of w / m * -log pi(a | s)

    c is 1, or with `standardise` the running standard deviation of A; m is 1, or with `mean_weight`
    the running mean of w.

    Shapes: A, w and the loss of imitation are (B, T); a is (B, T, K, A).

    Source: Peng et al., 2019, AWR, algorithm 1; Nair et al., 2020, AWAC, algorithm 1; Kostrikov,
    Nair and Levine, 2022, IQL, eq. 7.
    """

    type: Literal["weighted_bc"] = "weighted_bc"
    beta: float = Field(default=3.0, gt=0)
    """Inverse temperature: 0 would imitate all alike."""
    max_weight: float = Field(default=100.0, ge=1)
    """Greatest weight."""
    standardise: bool = False
    """Divide advantages by their running standard deviation: beta then means the same whatever the
    rewards' size."""
    mean_weight: bool = False
    """Divide the weights by their running mean: the learning rate then means the same as in
    imitation."""

    def build(self, policy: Policy, value: ValueLearner) -> WeightedBC:
        """Raises ObjectiveError if there are no values to make weights of."""
        if isinstance(value, NoValues):
            raise ObjectiveError(
                "objective.extraction: weighted_bc without values weighs all alike; use "
                "extraction: {type: bc}"
            )
        return WeightedBC(self)


class WeightedBC(Extraction):
    """See the config. The running deviation and mean are of one process each; they differ
    little."""

    deviation: Tensor
    mean: Tensor
    seen: Tensor

    def __init__(self, config: WeightedBCConfig) -> None:
        super().__init__()
        self.config = config
        for name in ("deviation", "mean", "seen"):
            self.register_buffer(name, torch.zeros(()))

    def loss(self, now: Transition, value: ValueLearner) -> ExtractionLoss:
        mask_BT = now.batch.mask
        advantage_BT = value.advantage(now)
        centred_BT = advantage_BT - masked_mean(advantage_BT, mask_BT)
        deviation = masked_mean(centred_BT.square(), mask_BT).sqrt()
        if self.training:
            self.seen += 1
        scaled_BT = advantage_BT
        if self.config.standardise:
            # divided only, not centred: an advantage of 0 still has the weight 1
            scaled_BT = advantage_BT / self._running(self.deviation, deviation)
        max_weight = self.config.max_weight
        weights_BT = advantage_weights(scaled_BT, beta=self.config.beta, max_weight=max_weight)
        used_BT = weights_BT
        if self.config.mean_weight:
            used_BT = weights_BT / self._running(self.mean, masked_mean(weights_BT, mask_BT))
        imitated_BT = imitation(now)
        loss = masked_mean(used_BT * imitated_BT, mask_BT)
        # exp(log(max_weight)) may round to less than max_weight
        clipped_BT = (weights_BT >= max_weight * (1 - 1e-6)).float()
        columns = {
            "bc_loss": imitated_BT,
            "weight": weights_BT,
            "weight_clipped": clipped_BT,
            "advantage": advantage_BT,
        }
        metrics = masked_means(columns, mask_BT)
        metrics["advantage_deviation"] = deviation
        metrics["weight_ess"] = effective_sample_size(weights_BT, mask_BT)
        return ExtractionLoss(loss, metrics, used_BT)

    @torch.no_grad()
    def _running(self, average: Tensor, now: Tensor) -> Tensor:
        """The running average, in training moved in place by `now`; held-out data must not move
        it."""
        if self.training:
            # a plain mean of the first hundred steps, then about the last hundred
            rate = max(_RATE, 1 / float(self.seen))
            average += rate * (now - average)
        return average.clamp(min=1e-6)


__all__ = ["WeightedBC", "WeightedBCConfig"]
