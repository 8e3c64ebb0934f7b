"""A reward model as what the training step minimises.

B windows, T steps, N windows of solved episodes.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from vla.models.policy import Policy
from vla.models.rewards.base import RewardModel
from vla.models.rewards.labelled import LabelledSteps
from vla.training.losses import Metrics, masked_mean
from vla.training.objective import Objective
from vla.types import Batch

IMITATED = "imitated"
"""Extra column of a batch, (B, T): the window is there to be imitated, and is no example."""


class RewardObjective(Objective):
    """The model's own loss on a batch of its examples, and imitation beside it if that is on.

    The trunk is the policy of the training state, and is no submodule here; what is on top of it
    is.

    Args:
        imitation: weight of the policy's imitation of the windows that are marked for it.
    """

    def __init__(self, model: RewardModel, imitation: float = 0.0) -> None:
        super().__init__()
        # in a tuple, so that its trunk is not trained and stored a second time
        self._model = (model,)
        self.imitation = imitation
        own = {name: part for name, part in model.named_children() if name != "policy"}
        self.own = nn.ModuleDict(own)

    @property
    def model(self) -> RewardModel:
        return self._model[0]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # a frozen trunk stays in evaluation mode, which the model knows
        self.model.train(mode)
        return self

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """The model's loss, plus `imitation_loss` by its weight."""
        if IMITATED not in batch.extras:
            return self.model.loss(batch)
        imitated_B = batch.extras[IMITATED][:, -1].cpu().numpy()
        loss, metrics = self.model.loss(batch.select(np.flatnonzero(~imitated_B)))
        imitated = batch.select(np.flatnonzero(imitated_B))
        output = policy(imitated)
        loss_BT = output.actions.loss(imitated.actions, imitated.action_mask)
        # with what the policy adds of its own, such as where the hand will be next
        added_BT = sum(output.losses.values(), loss_BT)
        imitation = masked_mean(added_BT, imitated.mask)
        metrics = {**metrics, "imitation_loss": imitation.detach()}
        return loss + self.imitation * imitation, metrics

    def validate(self, policy: Policy, batch: Batch) -> Metrics:
        """`loss`, and what the model tells beside it."""
        loss, metrics = self.model.loss(batch)
        return {"loss": loss, **metrics}


def with_imitation(
    batch: Batch, steps: LabelledSteps, rows: np.ndarray, rng: np.random.Generator, size: int
) -> Batch:
    """The batch and `size` windows to imitate behind it.

    Args:
        rows: int (N,), steps of solved episodes.
    """
    imitated = steps.gather(rng.choice(rows, size=size))
    parts = []
    for part, marked in ((batch, False), (imitated, True)):
        extras = dict(part.extras)
        for name, column in batch.extras.items():
            # columns of examples, of which an imitated window is none
            shape = (part.batch_size, *column.shape[1:])
            extras.setdefault(name, torch.zeros(shape, dtype=column.dtype))
        extras[IMITATED] = torch.full(part.mask.shape, marked)
        parts.append(dataclasses.replace(part, extras=extras))
    return Batch.concat(parts)


__all__ = ["IMITATED", "RewardObjective", "with_imitation"]
