"""The contract of policy extraction: how a policy is made better by values.

B windows, T steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vla.common.renamed import accept_former_members
from vla.config import Config
from vla.models.policy import Policy
from vla.training.losses import Metrics
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.values.base import Transition, ValueLearner
from vla.types import ActionDistribution, PolicyOutput


@dataclass(frozen=True)
class ExtractionLoss:
    """What `Extraction.loss` returns.

    Attributes:
        loss: the scalar to minimise, a mean over the valid steps.
        metrics: further scalars, without gradient.
        weights: of the steps in the loss of imitation, without gradient; None if all count alike.
    """

    loss: Tensor
    metrics: Metrics
    weights: Float[Tensor, "B T"] | None = None

    def __iter__(self) -> Iterator[Any]:
        # extractions outside of this repository unpack `super().loss(...)` as a pair
        return iter((self.loss, self.metrics))

    @classmethod
    def of(cls, returned: ExtractionLoss | tuple[Tensor, Metrics]) -> ExtractionLoss:
        """What an extraction returned; one that returns the pair (loss, metrics) has no weights."""
        return returned if isinstance(returned, cls) else cls(*returned)


class ExtractionConfig(Config, ABC):
    """Base of the configs registered under "extractions".

    A subclass adds `type: Literal["name"] = "name"`.
    """

    @abstractmethod
    def build(self, policy: Policy, value: ValueLearner) -> Extraction:
        """Raises ObjectiveError if the extraction cannot use these values."""


class Extraction(nn.Module, ABC):
    """Makes a policy out of values."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_former_members(cls, {"rests": "skips_policy_update"})

    @abstractmethod
    def loss(self, now: Transition, value: ValueLearner) -> ExtractionLoss | tuple[Tensor, Metrics]:
        """The loss of the policy.

        Args:
            now: `now.actions` has a gradient, `now.features` has none.
            value: `value.advantage(now)` and `value.q` tell good actions from bad.

        Returns:
            an `ExtractionLoss`, or the pair (scalar to minimise, further scalars) if imitation
            weighs all steps alike.
        """

    def policy_loss(
        self,
        policy: Policy,
        now: Transition,
        value: ValueLearner,
    ) -> ExtractionLoss | tuple[Tensor, Metrics]:
        """`loss`, for extractions that ask the policy once more, under other conditions."""
        return self.loss(now, value)

    def acting(self, output: PolicyOutput) -> ActionDistribution:
        """What acts where values look ahead: the policy's own actions, or what takes their
        place."""
        return output.actions

    needs_slow_policy: bool = False
    """Whether `loss` asks what a slowly moving copy of the policy does (`now.slow_actions`)."""

    @property
    def entropy_temperature(self) -> Tensor | float:
        """What the loss pays for a nat of the policy's entropy, in units of reward, without
        gradient; soft values count it as reward.

        Raises ObjectiveError if it pays nothing, or in other units.
        """
        raise ObjectiveError(
            f"objective.value.soft: {type(self).__name__} pays nothing for entropy; use "
            "extraction: {type: ddpg_bc, bc: 0, normalise: false, temperature: auto}, or soft: "
            "false"
        )

    @property
    def skips_policy_update(self) -> bool:
        """Whether the loss of the present step teaches the policy nothing."""
        return False

    rests = skips_policy_update  # former name

    def after_step(self) -> None:
        """Called after each optimiser step."""

    def deploy(self, policy: Policy, value: ValueLearner) -> Policy:
        """What acts: the policy itself, or one that asks the critics."""
        return policy


def imitation(now: Transition) -> Float[Tensor, "B T"]:
    """The loss of the data's actions under the policy."""
    return now.actions.loss(now.batch.actions, now.batch.action_mask)


def require(
    actions: object,
    ability: str,
    who: str,
    remedy: str,
) -> None:
    """Raises ObjectiveError if a distribution cannot do what an extraction needs.

    Args:
        actions: the policy's distribution.
        ability: name of the method.
        who: needs it.
        remedy: what to set instead.
    """
    # asked of the distribution, not of the head: options of a head decide whether it has a density
    if not hasattr(actions, ability):
        raise ObjectiveError(
            f"objective: {who} needs a head with {ability}, {type(actions).__name__} has none; "
            f"{remedy}"
        )


def require_q(value: ValueLearner, who: str) -> None:
    """Raises ObjectiveError if the values are none of actions."""
    # before training: extractions that ask for Q would fail at the first step, or when they act
    if value.action_critic is None:
        raise ObjectiveError(
            f"objective.extraction: {who} asks for Q of actions that the data does not hold, which "
            "this value part does not learn; use value: {type: expectile}, {type: td} or {type: "
            "conservative}"
        )


__all__ = [
    "Extraction",
    "ExtractionConfig",
    "ExtractionLoss",
    "imitation",
    "require",
    "require_q",
]
