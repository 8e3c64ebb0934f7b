"""Behavioural cloning: maximise the likelihood of the demonstrated actions.

B windows, T steps, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vla.config import register
from vla.data import Windows
from vla.models.policy import Policy
from vla.training.losses import Metrics, action_l1, masked_mean
from vla.training.objective import (
    AuxiliaryConfig,
    AuxiliaryRule,
    Objective,
    auxiliary_losses,
    check_auxiliary,
)
from vla.types import Batch


@register("objectives", "bc")
class BCConfig(AuxiliaryConfig):
    """Imitation of the demonstrated actions.

    Formula: L = mean over the valid steps of -log pi(a_t | s_0 .. s_t, instruction), or what the
    head has in place of it (see the heads), plus the losses that the policy adds in training.

    Shapes: actions a are (B, T, K, A), their loss (B, T).

    Source: Pomerleau, 1989, "ALVINN: an autonomous land vehicle in a neural network".
    """

    several_robots: ClassVar[bool] = True
    type: Literal["bc"] = "bc"

    def build(self, policy: Policy) -> BC:
        return BC(self.auxiliary)


class BC(Objective):
    """Mean over the valid steps of the distribution's own loss (cross-entropy for tokens).

    Args:
        auxiliary: how the losses that the policy adds count the steps.
    """

    def __init__(self, auxiliary: AuxiliaryRule = "weighted") -> None:
        super().__init__()
        self.auxiliary: AuxiliaryRule = auxiliary

    def fit(self, windows: Windows) -> None:
        """Raises ObjectiveError if solved episodes alone are to teach, and there are none."""
        check_auxiliary(self.auxiliary, windows)

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss, and in training those that the policy adds."""
        output = policy(batch)
        loss_BT = output.actions.loss(batch.actions, batch.action_mask)
        loss = masked_mean(loss_BT, batch.mask)
        added = auxiliary_losses(output, batch, rule=self.auxiliary)
        metrics = {name: value.detach() for name, value in added.items()}
        metrics |= _token_accuracy(output.actions, batch)
        if policy.robot_name:
            # of one robot among several: its imitation alone, without what the policy adds
            metrics[f"loss/{policy.robot_name}"] = loss.detach()
        return loss + sum(added.values()), metrics

    def validate(self, policy: Policy, batch: Batch) -> Metrics:
        """`loss`, `action_error` (mean L1 of the mode, robot units) and the same per dimension."""
        distribution = policy(batch).actions
        loss_BT = distribution.loss(batch.actions, batch.action_mask)
        # of the mode, which is what control executes by default
        error_BTA = action_l1(distribution.mode(), batch.actions, batch.action_mask)
        metrics = {
            "loss": masked_mean(loss_BT, batch.mask),
            "action_error": masked_mean(error_BTA.mean(-1), batch.mask),
        }
        for number, name in enumerate(policy.spec.action_names):
            error_BT = error_BTA[..., number]
            metrics[f"action_error/{name}"] = masked_mean(error_BT, batch.mask)
        return metrics | _token_accuracy(distribution, batch)


@torch.no_grad()
def _token_accuracy(distribution: Any, batch: Batch) -> Metrics:
    """Share of the valid actions' tokens that are the most likely ones; nothing without tokens."""
    # only distributions over tokens have it; an accuracy of real numbers means nothing
    if not hasattr(distribution, "token_accuracy"):
        return {}
    accuracy_BT = distribution.token_accuracy(batch.actions, batch.action_mask)
    return {"token_accuracy": masked_mean(accuracy_BT, batch.mask)}
