"""The contract of policy extraction: how a policy is made better by values."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vla.config import Config
from vla.models.policy import Policy
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.values.base import Moment, ValueLearner


class ExtractionConfig(Config, ABC):
    """Base of the configs registered under "extractions"; a subclass adds `type: Literal["name"] = "name"`."""

    @abstractmethod
    def build(self, policy: Policy, value: ValueLearner) -> Extraction:
        """Raises ObjectiveError where the extraction cannot use these values."""


class Extraction(nn.Module, ABC):
    """Makes a policy out of values."""

    @abstractmethod
    def loss(self, now: Moment, value: ValueLearner) -> tuple[Tensor, dict[str, Tensor]]:
        """-> the scalar to minimise (mean over the valid steps) and further scalars. `now.actions` has a gradient."""

    @property
    def rests(self) -> bool:
        """Whether the loss of the step that is being done teaches the policy nothing."""
        return False

    def after_step(self) -> None:
        """Called after each optimiser step."""

    def deploy(self, policy: Policy, value: ValueLearner) -> Policy:
        """What acts: the policy itself, or one that asks the critics."""
        return policy


def imitation(now: Moment) -> Tensor:
    """The loss (B, T) of the data's actions."""
    return now.actions.loss(now.batch.actions, now.batch.action_mask)


def require(actions: object, ability: str, who: str, remedy: str) -> None:
    """Raises ObjectiveError where a distribution cannot do what an extraction needs."""
    if not hasattr(actions, ability):
        raise ObjectiveError(
            f"objective: {who} needs a head with {ability}, {type(actions).__name__} has none; {remedy}"
        )


def require_q(value: ValueLearner, who: str) -> None:
    """Raises ObjectiveError where the values are none of actions."""
    if value.action_critic is None:
        raise ObjectiveError(
            f"objective.extraction: {who} asks for Q of actions that the data does not hold, which this value part does not "
            "learn; use value: {type: expectile}, {type: td} or {type: conservative}"
        )


__all__ = ["Extraction", "ExtractionConfig", "imitation", "require", "require_q"]
