"""What a policy is trained to do: the contract between objectives and the loop."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from vla.common.renamed import accept_former_members
from vla.config import Config, UserError
from vla.data import Windows
from vla.data.loading.image_text import ImageTextBatch
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy
from vla.training.losses import Metrics, masked_mean
from vla.types import Batch, PolicyOutput


class ObjectiveError(UserError):
    """Objective, policy and data do not go together, or learning has diverged."""


class NothingToImitateError(ObjectiveError):
    """None of the data is of the kind that is imitated. Where a policy plays on, some may come."""


class Objective(nn.Module, ABC):
    """A loss, with whatever it needs beside the policy (critics, target networks) as submodules.

    Its parameters are trained by the same optimiser as the policy's. An objective never asks which
    network it trains: it sees `policy(batch)` only.

    Every number that it returns is a mean over the steps where `batch.mask` is True (or over what
    `weight` counts). The loop turns these means into means over all processes and micro-batches, so
    that gradients and metrics do not depend on how a batch was divided.
    """

    next_step: int = 0
    """How many steps after the current one the windows carry, for temporal-difference targets."""
    discount: float = 1.0
    """Discount of `batch.returns_to_go`."""
    extras: tuple[str, ...] = ()
    """Extra columns of the data that `loss` reads from `batch.extras`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_former_members(cls, {"policy_rests": "skips_policy_update"})

    def fit(self, windows: Windows) -> None:
        """Called once with the training data, before the first step.

        Takes what has to be known of the data, such as the range of returns. Raises ObjectiveError
        if the data cannot teach what the objective learns.
        """

    def check_replayed(self, windows: Windows) -> None:
        """Called after `fit` with each dataset that is replayed (`data.replay`).

        What was taken of the training data stays. Raises DataError or ObjectiveError if this
        dataset would teach what is wrong.
        """

    def window_weights(self, windows: Windows) -> np.ndarray | None:
        """How often each window is drawn: (len(windows),), non-negative.

        It is multiplied with the weights of the data config. None draws all equally often.
        """
        return None

    def begin_round(self, policy: Policy, windows: Windows) -> dict[str, np.ndarray]:
        """Called before the updates of each round, where a policy learns from what it just did.

        Args:
            policy: in eval mode, as it has acted.
            windows: of all episodes that the round learns from.

        Returns:
            name -> (len(windows),) or (len(windows), D), what `loss` then finds in `batch.extras`
            beside the columns of the data.

        Raises ObjectiveError if the round cannot be learned from.
        """
        return {}

    @property
    def acts_in_eval_mode(self) -> bool:
        """Whether the policy stays in eval mode while it learns, so that dropout and batch norm are
        as they were when its actions were drawn."""
        return False

    @abstractmethod
    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns the scalar to minimise, and further scalars (without gradient) to be logged."""

    @abstractmethod
    def validate(self, policy: Policy, batch: Batch) -> Metrics:
        """Scalars on held-out windows; by `loss` among them the best checkpoint is chosen."""

    def weight(self, batch: Batch) -> Tensor:
        """What the means of `loss` and `validate` divide by: the number of valid steps."""
        return batch.mask.sum()

    @property
    def skips_policy_update(self) -> bool:
        """Whether the present step has no loss of the policy's own.

        Parameters of the policy that no other loss moves are then left alone, by weight decay and
        by the optimiser's momentum too.
        """
        return False

    policy_rests = skips_policy_update  # former name

    @property
    def freezes_policy(self) -> bool:
        """Whether nothing of the policy may move at the present step, whatever loss asks for it.

        Its gradients are then dropped; what its forward passes changed, `after_step` puts back.
        """
        return False

    def after_step(self, policy: Policy) -> None:
        """Called after each optimiser step, for example to move target networks."""

    def deploy(self, policy: Policy) -> Policy:
        """What is validated, saved and used in place of the policy that was trained.

        The policy itself, or one that also asks the objective's critics when it acts (see
        `vla.models.policies.guided`).
        """
        return policy


AuxiliaryRule = Literal["weighted", "all", "solved"]
"""How the losses that a policy adds count the steps (see `AuxiliaryConfig.auxiliary`)."""


def auxiliary_losses(
    output: PolicyOutput,
    batch: Batch,
    *,
    rule: AuxiliaryRule,
    weights: Float[Tensor, "B T"] | None = None,
) -> Metrics:
    """The losses that the policy adds to that of its actions, each a mean over the valid steps.

    Args:
        output: `losses` holds (B, T) for each name.
        batch: whose steps they are of.
        rule: which steps count, and how much.
        weights: of the steps in the loss of imitation, for `weighted`; None weighs all alike.
    """
    counted_BT = batch.mask
    if rule == "solved":
        counted_BT = counted_BT & batch.success
    means = {}
    for name, loss_BT in output.losses.items():
        if rule == "weighted" and weights is not None:
            loss_BT = weights * loss_BT
        # over all valid steps, not over the solved: the loop weights the mean by `Objective.weight`
        means[name] = masked_mean(loss_BT.where(counted_BT, 0.0), batch.mask)
    return means


def check_auxiliary(rule: AuxiliaryRule, windows: Windows) -> None:
    """Raises ObjectiveError if only solved episodes would count, and none is marked as solved."""
    if rule == "solved" and not windows.success.any():
        windows.dataset.require_recorded("success", "objective.auxiliary: solved")
        raise ObjectiveError(
            "objective.auxiliary: solved counts solved episodes alone, but none of "
            f"{len(windows.lengths)} in {windows.dataset.root} is marked as solved; set "
            "auxiliary: all"
        )


class ObjectiveConfig(Config, ABC):
    """Base of the configs registered under "objectives"."""

    several_robots: ClassVar[bool] = False
    """Whether it can learn from several robots in one run (`data.multi_robot`), a micro-batch of
    each."""

    @property
    def acting_temperature(self) -> float:
        """With which the policy acts where it learns from what it does, unless the user says
        otherwise."""
        return 1.0

    @abstractmethod
    def build(self, policy: Policy) -> Objective:
        """The objective for this policy (its features' size is `policy.feature_dim`).

        Raises ObjectiveError if the two do not go together.
        """


class AuxiliaryConfig(ObjectiveConfig, ABC):
    """Base of the configs whose objectives learn what a policy adds to its loss."""

    auxiliary: AuxiliaryRule = "weighted"
    """Which steps count in the losses that the policy adds (`keyframe_loss`). weighted: each as the
    loss of imitation weighs it, all alike where nothing is weighted. all: all alike. solved: those
    of solved episodes alone, since where a failure goes is not what its instruction asked for."""


class Learner(nn.Module):
    """Policy and objective as one module whose forward is the loss.

    Distributed training averages gradients of the module whose `forward` it wraps; hence everything
    that is trained has to be used inside one forward.
    """

    def __init__(self, policy: Policy, objective: Objective) -> None:
        super().__init__()
        self.policy = policy
        self.objective = objective

    @functools.cached_property
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What is trained, by the name of its gradient norm.

        `grad_norm` is of the policy, `critic_grad_norm` of the objective's own networks, if any.
        """
        # Clipped apart: a critic whose loss is large must not shrink the policy's step.
        # Cached: a step of a small network would feel the walk through all modules.
        groups = {}
        modules = {"grad_norm": self.policy, "critic_grad_norm": self.objective}
        for name, module in modules.items():
            trained = [p for p in module.parameters() if p.requires_grad]
            if trained:
                groups[name] = trained
        return groups

    def forward(
        self,
        batch: Batch,
        pairs: ImageTextBatch | None = None,
        robot: str = "",
    ) -> tuple[Tensor, Tensor | None, Metrics]:
        """The losses of one micro-batch.

        Args:
            batch: windows of one robot.
            pairs: image-text pairs that are learned together with it.
            robot: its name in a policy for several; "" for the policy of one.

        Returns:
            the objective's loss, the mean loss of image-text pairs (None without pairs), and what
            is to be logged.
        """
        if robot:
            several = cast(MultiRobotPolicy, self.policy)
            loss, metrics = self.objective.loss(several.part(robot), batch)
            # without any gradient AdamW would treat robots that are absent here unlike the others
            zero = several.zero_for_others(robot)
            return (loss if zero is None else loss + zero), None, metrics
        loss, metrics = self.objective.loss(self.policy, batch)
        if pairs is None:
            return loss, None, metrics
        # `run_data.image_text` has refused policies without this method before the first step
        policy = cast(Any, self.policy)
        images = [[image] for image in pairs.images]
        pair_losses = policy.image_text_loss(images, pairs.prompts, pairs.answers)
        return loss, pair_losses.mean(), metrics
