"""An env that asks for one thing after the other, and an actor that keeps what it was asked for."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from point_env import PointConfig, PointEnv

from vla.config import register
from vla.types import Observation, Spec

FIRST, THEN = "Go to the red square", "Now stay there"
CHANGE = 3  # the step from which on the second text is asked for


class SubTaskEnv(PointEnv):
    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action)
        if self._steps >= CHANGE:
            info["instruction"] = THEN
        return (*rest, info)


@register("envs", "test_sub_tasks")
class SubTaskConfig(PointConfig):
    """A point mass that is asked for two things in turn."""

    type: Literal["test_sub_tasks"] = "test_sub_tasks"
    tasks: tuple[str, ...] = ("red",)

    def make(self, task: str) -> SubTaskEnv:
        return SubTaskEnv(self, task)


class Listener:
    """Stands still, and keeps every instruction that it is given."""

    history = 1

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.instructions: list[str] = []

    def act(self, observation: Observation, memory: None = None) -> tuple[torch.Tensor, None]:
        self.instructions += observation.instruction
        return torch.zeros(len(observation.instruction), 1, self.spec.action_dim), None
