"""A student that gives in one step what a flow gives in many, made better by values.

B windows, T steps, S draws, F features, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vla.config import Config, register
from vla.models.heads.continuous import check_temperature
from vla.models.heads.flow import FlowActions, FlowHead
from vla.models.policy import Policy
from vla.models.policy_wrapper import PolicyWrapper, PolicyWrapperConfig
from vla.types import Batch, Observation, PolicyOutput


class StudentConfig(Config):
    """The network of a one-step policy."""

    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the hidden layers."""
    depth: int = Field(default=3, ge=1, le=1000)
    """Hidden layers."""


@register("policies", "one_step")
class OneStepConfig(PolicyWrapperConfig):
    """A policy with a flow head, and the student that acts in its place.

    Made by training (`extraction: {type: one_step}`).
    """

    type: Literal["one_step"] = "one_step"
    student: StudentConfig = StudentConfig()
    """Who acts."""

    def around(self, inside: Policy) -> OneStepPolicy:
        numbers = self.policy.chunk * inside.spec.action_dim
        student = Student(self.student, inside.feature_dim, numbers)
        return OneStepPolicy(self, inside, student)


class Student(nn.Module):
    """Features and noise -> a chunk, in units of the flow head."""

    def __init__(self, config: StudentConfig, feature_dim: int, numbers: int) -> None:
        super().__init__()
        sizes = [feature_dim + numbers] + [config.hidden] * config.depth
        layers: list[nn.Module] = []
        for size, following in pairwise(sizes):
            layers += [nn.Linear(size, following), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(config.hidden, numbers))

    def forward(
        self, features: Float[Tensor, "B T F"], noise: Float[Tensor, "*S B T K A"]
    ) -> Float[Tensor, "*S B T K A"]:
        flat = noise.flatten(-2)
        features = features.to(flat.dtype).expand(*flat.shape[:-1], -1)
        return self.layers(torch.cat([features, flat], dim=-1)).view(noise.shape)


def has_flow_head(policy: Policy) -> bool:
    """Whether the policy's actions flow from noise."""
    return any(isinstance(module, FlowHead) for module in policy.modules())


class OneStepPolicy(PolicyWrapper):
    """See the module's docstring."""

    config: OneStepConfig

    def __init__(self, config: OneStepConfig, policy: Policy, student: Student) -> None:
        super().__init__(config, policy)
        self.student = student
        self.to(policy.device)

    def forward(self, batch: Batch) -> PolicyOutput:
        return self._one_step(self.policy(batch))

    def step(self, observation: Observation, memory: Any) -> tuple[PolicyOutput, Any]:
        output, memory = self.policy.step(observation, memory)
        return self._one_step(output), memory

    def _one_step(self, output: PolicyOutput) -> PolicyOutput:
        assert isinstance(output.actions, FlowActions)
        actions = OneStepActions(output.actions, output.features, self.student)
        return PolicyOutput(output.features, actions, output.losses)


@dataclass(frozen=True)
class OneStepActions:
    """Chunks that the student makes of standard normal noise. Losses are those of the flow.

    Attributes:
        flow: the teacher.
        features: (B, T, F), as the student reads them.
        student: makes the chunks.
    """

    flow: FlowActions
    features: Float[Tensor, "B T F"]
    student: Student

    def loss(
        self, actions: Float[Tensor, "B T K A"], action_mask: Tensor | None = None
    ) -> Float[Tensor, "B T"]:
        """Of imitation, by the flow."""
        return self.flow.loss(actions, action_mask)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """What the student makes of zero noise, the most likely noise."""
        return self.of_noise(torch.zeros(self._shape, device=self.features.device))

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` multiplies the noise's variance, 0 gives the mode.

        Raises ValueError if the temperature is negative.
        """
        check_temperature(temperature)
        if temperature == 0:
            return self.mode()
        noise = torch.randn(self._shape, generator=generator, device=self.features.device)
        return self.of_noise(math.sqrt(temperature) * noise)

    def of_noise(self, noise: Float[Tensor, "*S B T K A"]) -> Float[Tensor, "*S B T K A"]:
        """The chunks made of this noise, robot units."""
        return self.flow.head.scale.to_robot(self.student(self.features, noise))

    @property
    def _shape(self) -> tuple[int, ...]:
        return (*self.features.shape[:-1], *self.flow.head.chunk_shape)


__all__ = [
    "OneStepActions",
    "OneStepConfig",
    "OneStepPolicy",
    "Student",
    "StudentConfig",
    "has_flow_head",
]
