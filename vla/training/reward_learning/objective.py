"""A reward model as what the training step minimises."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from vla.models.policy import Policy
from vla.models.rewards.base import RewardModel
from vla.training.losses import Metrics
from vla.training.objective import Objective
from vla.types import Batch


class RewardObjective(Objective):
    """The model's own loss on a batch of its examples.

    The trunk is the policy of the training state, and is no submodule here; what is on top of it
    is.
    """

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        # in a tuple, so that its trunk is not trained and stored a second time
        self._model = (model,)
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
        return self.model.loss(batch)

    def validate(self, policy: Policy, batch: Batch) -> Metrics:
        """`loss`, and what the model tells beside it."""
        loss, metrics = self.model.loss(batch)
        return {"loss": loss, **metrics}


__all__ = ["RewardObjective"]
