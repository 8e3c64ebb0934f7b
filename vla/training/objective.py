"""What a policy is trained to do: the contract between objectives and the loop."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import numpy as np
from torch import Tensor, nn

from vla.config import Config, UserError
from vla.data import Windows
from vla.data.loading.image_text import ImageTextBatch
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy
from vla.training.losses import masked_mean
from vla.types import Batch, PolicyOutput


class ObjectiveError(UserError):
    """Objective, policy and data do not go together, or learning has come apart."""


class Objective(nn.Module, ABC):
    """A loss, with whatever it needs besides the policy (critics, target networks) as submodules.

    Its parameters are trained by the same optimiser as the policy's. An objective never asks which
    network it trains: it sees `policy(batch)` only.

    Every number that it returns is a mean over the steps where `batch.mask` is True (or over what
    `weight` counts). The loop turns these means into means over all processes and micro-batches, so that
    gradients and metrics do not depend on how a batch was divided.
    """

    next_step: int = 0
    """How many steps after the current one the windows carry, for temporal-difference targets."""
    discount: float = 1.0
    """Discount of `batch.returns_to_go`."""

    def fit(self, windows: Windows) -> None:
        """Called once with the training data, before the first step: takes what has to be known of it, such as the range
        of returns. Raises ObjectiveError where the data cannot teach what the objective learns."""

    def check_replayed(self, windows: Windows) -> None:
        """Called after `fit` with each dataset that is replayed beside the training data (`data.replay`). What was taken of
        the training data stays. Raises DataError or ObjectiveError where this dataset would teach what is wrong."""

    def window_weights(self, windows: Windows) -> np.ndarray | None:
        """How often each window is drawn, (len(windows),) non-negative: multiplied with what the data config says. None
        for all alike."""
        return None

    @abstractmethod
    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """-> the scalar to minimise, and further scalars (without gradient) to be logged."""

    @abstractmethod
    def validate(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """Scalars on held-out windows, among them `loss`, by which the best checkpoint is chosen."""

    def weight(self, batch: Batch) -> Tensor:
        """What the means of `loss` and `validate` divide by: the number of valid steps."""
        return batch.mask.sum()

    @property
    def policy_rests(self) -> bool:
        """Whether the policy's own loss counts for nothing at the step that is being done. Its parameters that nothing else
        asks to move are then left alone, by weight decay and by the optimiser's momentum too."""
        return False

    def after_step(self, policy: Policy) -> None:
        """Called after each optimiser step, for example to move target networks."""

    def deploy(self, policy: Policy) -> Policy:
        """What is validated, saved and used in place of the policy that was trained: itself, or one that also asks the
        objective's critics when it acts (see `vla.models.policies.guided`)."""
        return policy


def asked_besides(output: PolicyOutput, batch: Batch, *, solved_only: bool) -> dict[str, Tensor]:
    """What the policy asks to be learned beside its actions: a mean over the valid steps for each name.

    solved_only: leave out the steps of episodes that are not solved (they count as 0): where the keyframe of a failure lies is
        not what the instruction asked for.
    """
    counted_BT = batch.mask & batch.success if solved_only else batch.mask
    return {
        name: masked_mean(loss.where(counted_BT, 0.0), batch.mask)
        for name, loss in output.losses.items()
    }


class ObjectiveConfig(Config, ABC):
    """Base of the configs registered under "objectives"."""

    several_robots: ClassVar[bool] = False
    """Whether it can learn from several robots in one run (`data.multi_robot`), a micro-batch of each."""

    @abstractmethod
    def build(self, policy: Policy) -> Objective:
        """The objective for this policy (its features' size is `policy.feature_dim`). Raises ObjectiveError where the two
        do not go together."""


class Learner(nn.Module):
    """Policy and objective as one module whose forward is the loss.

    Distributed training averages gradients of the module whose `forward` it wraps; hence everything that
    is trained has to be used inside one forward.
    """

    def __init__(self, policy: Policy, objective: Objective) -> None:
        super().__init__()
        self.policy = policy
        self.objective = objective

    @functools.cached_property
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What is trained: of the policy (`grad_norm`) and, where there are any, of the objective's own networks
        (`critic_grad_norm`). Looked up once: a step of a small network would feel the walk through all modules."""
        groups = {"grad_norm": self.policy, "critic_grad_norm": self.objective}
        found = {
            name: [p for p in part.parameters() if p.requires_grad] for name, part in groups.items()
        }
        return {name: parameters for name, parameters in found.items() if parameters}

    def forward(
        self, batch: Batch, pairs: ImageTextBatch | None = None, robot: str = ""
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The losses of one micro-batch.

        Args:
            batch: windows of one robot.
            pairs: image-text pairs to be learned beside it.
            robot: its name in a policy for several; "" for the policy of one.

        Returns:
            the objective's loss, the mean loss of image-text pairs (None without pairs), and what is to
            be logged.
        """
        if robot:
            several = cast(MultiRobotPolicy, self.policy)
            loss, metrics = self.objective.loss(several.part(robot), batch)
            # no gradient at all would make AdamW treat a robot that is absent here unlike one that is present
            zero = several.zero_for_others(robot)
            return (loss if zero is None else loss + zero), None, metrics
        loss, metrics = self.objective.loss(self.policy, batch)
        if pairs is None:
            return loss, None, metrics
        images = [[image] for image in pairs.images]
        return (
            loss,
            cast(Any, self.policy).image_text_loss(images, pairs.prompts, pairs.answers).mean(),
            metrics,
        )
