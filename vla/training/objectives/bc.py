"""Behavioural cloning: maximise the likelihood of the demonstrated actions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import action_l1, masked_mean
from vla.training.objective import Objective, ObjectiveConfig
from vla.types import Batch


@register("objectives", "bc")
class BCConfig(ObjectiveConfig):
    """Imitation of the demonstrated actions."""

    several_robots: ClassVar[bool] = True
    type: Literal["bc"] = "bc"

    def build(self, policy: Policy) -> BC:
        return BC()


class BC(Objective):
    """Mean over the valid steps of the action distribution's own loss (cross-entropy for tokens), and in training of the
    losses that the policy adds."""

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = policy(batch)
        loss_BT = output.actions.loss(batch.actions, batch.action_mask)
        loss = masked_mean(loss_BT, batch.mask)
        added = {
            name: masked_mean(values_BT, batch.mask) for name, values_BT in output.losses.items()
        }
        metrics = {name: value.detach() for name, value in added.items()} | _accuracy(
            output.actions, batch
        )
        if policy.robot_name:
            # of one robot among several: its imitation alone, without what the policy adds
            metrics[f"loss/{policy.robot_name}"] = loss.detach()
        return loss + sum(added.values()), metrics

    def validate(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """`loss`, `action_error` (mean L1 of the mode, robot units) and the same per action dimension."""
        distribution = policy(batch).actions
        loss = masked_mean(distribution.loss(batch.actions, batch.action_mask), batch.mask)
        error_BTA = action_l1(distribution.mode(), batch.actions, batch.action_mask)
        metrics = {"loss": loss, "action_error": masked_mean(error_BTA.mean(-1), batch.mask)}
        for name, error_BT in zip(policy.spec.action_names, error_BTA.unbind(-1), strict=True):
            metrics[f"action_error/{name}"] = masked_mean(error_BT, batch.mask)
        return metrics | _accuracy(distribution, batch)


@torch.no_grad()
def _accuracy(distribution: Any, batch: Batch) -> dict[str, Tensor]:
    """Share of the valid actions' tokens that are the most likely ones, where the distribution is over tokens."""
    if not hasattr(distribution, "token_accuracy"):
        return {}
    return {
        "token_accuracy": masked_mean(
            distribution.token_accuracy(batch.actions, batch.action_mask), batch.mask
        )
    }
