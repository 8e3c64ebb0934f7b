"""What a simulated task is: suites, env configs, and the check that tells an env's author what is wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from vla.config import Config
from vla.types import Spec


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        name: unique in its suite, for example "drawer-open".
        group: what it is averaged with, for example "easy".
        instruction: the primary text.
        paraphrases: other texts with the same meaning.
        horizon: greatest number of control steps of an episode.
    """

    name: str
    group: str
    instruction: str
    paraphrases: tuple[str, ...] = ()
    horizon: int = 500


@dataclass(frozen=True)
class Suite:
    """A list of tasks that are reported together."""

    name: str
    tasks: tuple[Task, ...]
    info: dict[str, Any] = field(default_factory=dict)

    def task(self, name: str) -> Task:
        """Raises KeyError where there is no such task."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(f"suite {self.name!r} has no task {name!r}; it has: {', '.join(t.name for t in self.tasks)}")


class SimEnv(gymnasium.Env[dict[str, Any], np.ndarray], ABC):
    """A simulated robot with cameras.

    Observation: `{"images": {camera: uint8 (H, W, 3)}, "state": float32 (S,)}`. Action: float32 (A,).
    `info` of reset and step carries `instruction` (str), `success` (bool: the task is solved at this very
    step); where the simulator knows, also `failure` (str: how far the episode came).
    `reset(seed=s)` gives the same start for the same s.
    """

    spec_: Spec
    task: Task
    render_images: bool = True
    """While False, an env may skip rendering and leave `observation["images"]` empty: nobody looks at them.
    It must not change the physics."""

    @abstractmethod
    def expert_action(self) -> np.ndarray:
        """The scripted expert's action (A,) in the present state. Raises RuntimeError where there is none."""


class EnvConfig(Config, ABC):
    """A family of simulated tasks, as a config names it. Registered under "envs"."""

    @abstractmethod
    def spec(self) -> Spec:
        """What the robot sees and does; the same for all tasks."""

    @abstractmethod
    def suite(self) -> Suite:
        """The tasks. Raises ConfigError where a name is unknown."""

    @abstractmethod
    def make(self, task: str) -> SimEnv:
        """Builds the env of one task, in the process that will run it."""

    def versions(self) -> dict[str, str]:
        """What else decides the numbers: simulator version, renderer, render preset."""
        return {}
