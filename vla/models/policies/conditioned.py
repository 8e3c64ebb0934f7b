"""A policy that is asked for actions better than usual: the advantage indicator `positive`.

B robots, w guidance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.heads.base import HeadError
from vla.models.indicator import with_indicator
from vla.models.policy import Policy
from vla.models.policy_wrapper import PolicyWrapper, PolicyWrapperConfig
from vla.types import ActionDistribution, Batch, Observation, PolicyOutput


@register("policies", "conditioned")
class ConditionedConfig(PolicyWrapperConfig):
    """A policy that reads an advantage indicator and acts with `positive`.

    Made by training (`extraction: {type: advantage_conditioned}`).
    """

    type: Literal["conditioned"] = "conditioned"
    guidance: float = Field(default=1.0, ge=0)
    """How far to go from what the policy does without an indicator (0) to what it does with
    `positive` (1), and beyond: classifier-free guidance. Any number but 1 asks the policy twice."""

    def around(self, inside: Policy) -> ConditionedPolicy:
        return ConditionedPolicy(self, inside)


@dataclass(frozen=True)
class ConditionedMemory:
    """What the policy inside remembers of B robots: with the indicator, and without it.

    Attributes:
        positive: of the windows with the indicator.
        plain: of those without; None if they are not asked.
    """

    positive: Any
    plain: Any = None

    @property
    def batch_size(self) -> int:
        return int(self.positive.batch_size)

    def select(self, rows: Sequence[int]) -> ConditionedMemory:
        """The memory of some robots, in the order given."""
        plain = None if self.plain is None else self.plain.select(rows)
        return ConditionedMemory(self.positive.select(rows), plain)

    @classmethod
    def stack(cls, memories: Sequence[ConditionedMemory]) -> ConditionedMemory:
        """The memories of several groups of robots as one."""
        positive = [memory.positive for memory in memories]
        plain = [memory.plain for memory in memories if memory.plain is not None]
        return cls(
            type(positive[0]).stack(positive),
            type(plain[0]).stack(plain) if plain else None,
        )


class ConditionedPolicy(PolicyWrapper):
    """See the module's docstring."""

    config: ConditionedConfig

    def __init__(self, config: ConditionedConfig, policy: Policy) -> None:
        super().__init__(config, policy)
        self.guided = config.guidance != 1
        self.to(policy.device)

    def forward(self, batch: Batch) -> PolicyOutput:
        asked = dataclasses.replace(
            batch, instruction=with_indicator(batch.instruction, "positive")
        )
        positive: PolicyOutput = self.policy(asked)
        if not self.guided:
            return positive
        return self._guided(positive, self.policy(batch))

    def step(
        self, observation: Observation, memory: ConditionedMemory | None
    ) -> tuple[PolicyOutput, ConditionedMemory]:
        """Equal to `forward` over the robot's window."""
        past = memory or ConditionedMemory(None)
        # to the policy inside another indicator is another instruction: its memory keeps the two
        # apart, whatever it remembers
        texts = with_indicator(observation.instruction, "positive")
        asked = dataclasses.replace(observation, instruction=texts)
        positive, remembered = self.policy.step(asked, past.positive)
        if not self.guided:
            return positive, ConditionedMemory(remembered)
        plain, remembered_plain = self.policy.step(observation, past.plain)
        return self._guided(positive, plain), ConditionedMemory(remembered, remembered_plain)

    def remember(
        self, memory: ConditionedMemory, actions: Float[Tensor, "B K A"]
    ) -> ConditionedMemory:
        plain = memory.plain
        if plain is not None:
            plain = self.policy.remember(plain, actions)
        return ConditionedMemory(self.policy.remember(memory.positive, actions), plain)

    def _guided(self, positive: PolicyOutput, plain: PolicyOutput) -> PolicyOutput:
        actions = extrapolated(positive.actions, plain.actions, self.config.guidance)
        return PolicyOutput(positive.features, actions, positive.losses)


def extrapolated(
    actions: ActionDistribution, base: ActionDistribution, weight: float
) -> ActionDistribution:
    """From `base` (weight 0) to `actions` (1) and beyond.

    Tokens: base logits + weight * (logits - base logits); flow: the same of velocities (Ho and
    Salimans, 2022, "Classifier-free diffusion guidance", eq. 6).

    Raises HeadError if the head cannot do that.
    """
    if not hasattr(actions, "extrapolated"):
        raise HeadError(
            f"policy.guidance: {weight:g}: {type(actions).__name__} has neither logits nor "
            "velocities to extrapolate; set guidance: 1, or policy.head: {type: categorical}, "
            "{type: autoregressive} or {type: flow}"
        )
    guided: ActionDistribution = actions.extrapolated(base, weight)
    return guided


__all__ = ["ConditionedConfig", "ConditionedMemory", "ConditionedPolicy", "extrapolated"]
