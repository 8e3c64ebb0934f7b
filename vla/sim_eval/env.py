"""What a simulated task is: tasks and suites, envs, and the configs that build them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from vla.common.renamed import announce_renamed
from vla.config import Config
from vla.sim_eval.rendering import SceneRenderer
from vla.types import Spec

FAILURES = (
    "never reached",
    "no grasp",
    "dropped",
    "missed goal",
    "not held",
    "wrong object",
    "time limit",
)
"""How an episode can fail, from early to late; an env may know others."""


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        name: unique in its suite, for example "drawer-open".
        group: what it is averaged with, for example "easy".
        instruction: the primary text.
        paraphrases: other texts with the same meaning.
        horizon: greatest number of control steps of an episode.
        ends_at_success: whether nothing is left to do after a success. False if the task goes on
            for as long as it may, such as running: an episode is then played to its end, and a
            success is no terminal.
    """

    name: str
    group: str
    instruction: str
    paraphrases: tuple[str, ...] = ()
    horizon: int = 500
    ends_at_success: bool = True


@dataclass(frozen=True)
class Suite:
    """A list of tasks that are reported together."""

    name: str
    tasks: tuple[Task, ...]
    info: dict[str, Any] = field(default_factory=dict)

    def task(self, name: str) -> Task:
        """Raises KeyError if there is no such task."""
        for task in self.tasks:
            if task.name == name:
                return task
        names = ", ".join(task.name for task in self.tasks)
        raise KeyError(f"suite {self.name!r} has no task {name!r}; it has: {names}")


@dataclass(frozen=True)
class Caption:
    """A question about what is to be seen, and its only right answer.

    Attributes:
        kind: what is asked for, by which answers are counted, such as "colour".
        question, answer: sentences.
    """

    kind: str
    question: str
    answer: str


class SimEnv(gymnasium.Env[dict[str, Any], np.ndarray], ABC):
    """A simulated robot with cameras.

    Observation: `{"images": {camera: uint8 (H, W, 3)}, "state": float32 (S,)}`. Action: float32
    (A,). `info` of reset carries `instruction` (str: what this episode asks for) and `success`
    (bool: the task is solved at this very step), that of step `success` and, where the instruction
    changes within an episode (sub-tasks), `instruction`. If the simulator knows, also `failure`
    (str: how far the episode came, one of `FAILURES` if one fits) and `failure_step` (int: the step
    at which it went wrong). `reset(seed=s)` gives the same start for the same s.
    """

    # not `spec`: that is gymnasium's name for an entry of its registry
    robot_spec: Spec
    """What the robot sees and does."""
    task: Task
    model: Any = None
    """The `mujoco.MjModel`, if MuJoCo simulates the env. Perturbations and randomisation change
    it."""
    data: Any = None
    """The `mujoco.MjData` of the present state, if MuJoCo simulates the env."""
    renderer: SceneRenderer | None = None
    """What draws the pictures, if it is ours: things can be added to the picture alone."""
    # rendering takes most of a step's time, and within a chunk no policy looks
    render_images: bool = True
    """While False, an env may skip rendering and leave `observation["images"]` empty.
    It must not change the physics."""
    privileged_names: tuple[str, ...] = ()
    """What `privileged` tells, one name per number; empty if it tells nothing."""
    expert_name: str = ""
    """Which expert acts in the present episode, if there are several; recorded with it."""

    expert_has_memory: bool = False
    """Whether the expert's action depends on what it did before, so that it cannot correct a
    policy in a state that it has not brought about itself."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Takes over a `spec_` that the class body defines."""
        super().__init_subclass__(**options)
        # it would hide the property below, and `robot_spec` would be missing
        if "spec_" in vars(cls):
            announce_renamed("SimEnv.spec_", "SimEnv.robot_spec")
            if "robot_spec" not in vars(cls):
                cls.robot_spec = vars(cls)["spec_"]
            del cls.spec_

    @property
    def spec_(self) -> Spec:
        """Former name of `robot_spec`; it can be read and set, and says so once."""
        announce_renamed("SimEnv.spec_", "SimEnv.robot_spec")
        return self.robot_spec

    @spec_.setter
    def spec_(self, spec: Spec) -> None:
        announce_renamed("SimEnv.spec_", "SimEnv.robot_spec")
        self.robot_spec = spec

    @abstractmethod
    def observe(self) -> dict[str, Any]:
        """The observation of the present state, rendered again: a changed scene needs a new one."""

    @abstractmethod
    def expert_action(self) -> np.ndarray:
        """The scripted expert's action (A,) in the present state.

        Raises RuntimeError if there is no expert.
        """

    def changing_parts(self) -> tuple[object, ...]:
        """The objects whose attributes change as the env is stepped, itself first: with `data`, all
        that has to be put back after it was played ahead (`vla.sim_eval.mujoco.preserved`).

        Empty if the env cannot be put back.
        """
        return ()

    def privileged(self) -> np.ndarray:
        """What only the simulator knows of the present episode's world, float (D,), such as
        friction and payload: recorded with each step, and hidden from a policy that has to do
        without."""
        return np.zeros(0, np.float32)

    def privileged_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Between what episodes draw `privileged`: least and greatest numbers, each (D,)."""
        return np.zeros(0), np.zeros(0)

    def set_privileged(self, values: np.ndarray) -> None:
        """Gives the present episode's world these numbers (D,) in place of what it has drawn, until
        the next reset.

        Raises RuntimeError if the env has none to give.
        """
        raise RuntimeError(f"{type(self).__name__} has no hidden numbers that can be set")

    def paraphrases(self) -> tuple[str, ...]:
        """Other texts of the present episode's instruction."""
        return self.task.paraphrases

    def held_out_paraphrases(self) -> tuple[str, ...]:
        """Wordings that no demonstration uses; the paraphrases if none are kept apart."""
        return self.paraphrases()

    def wrong_instructions(self) -> tuple[str, ...]:
        """Instructions that ask something else of the present scene.

        Empty if the env knows none; then the other tasks of the suite serve.
        """
        return ()

    def achieved(self) -> frozenset[str]:
        """The instructions about the present scene that its present state fulfils.

        Whatever is asked; empty if the env cannot tell. Data that failed can be relabelled with
        them.
        """
        # by the env's own judge: hindsight labels must mean what `success` means
        return frozenset()

    def captions(self, rng: np.random.Generator) -> tuple[Caption, ...]:
        """Questions about the present state that a picture of it answers; drawn where there are
        many.

        Empty if the env has no words for what it shows.
        """
        return ()

    def mistake(self, rng: np.random.Generator) -> str:
        """The expert acts out another instruction of the present scene.

        Until the next reset, or until `follow_instruction`.

        It is returned, in a wording of `achieved`; what counts as a success stays. "" if the env
        knows none, and then nothing changes.
        """
        return ""

    def follow_instruction(self) -> None:
        """The expert acts out the episode's own instruction again, after a `mistake`."""

    def first_goal(self) -> str:
        """Until the next reset the expert acts out the first of the instruction's two goals alone.

        It is returned, in a wording of `achieved`; "" if the instruction has one goal, or two in no
        order, and then nothing changes.
        """
        return ""

    def skip_first_goal(self) -> bool:
        """Plays the expert until the first of the instruction's two goals is met, as if the episode
        began there.

        False if there is none, or the expert did not reach it.
        """
        return False


class EnvConfig(Config, ABC):
    """A family of simulated tasks, as a config names it. Registered under "envs"."""

    @abstractmethod
    def spec(self) -> Spec:
        """What the robot sees and does; the same for all tasks."""

    @abstractmethod
    def suite(self) -> Suite:
        """The tasks. Raises ConfigError if a name is unknown."""

    @abstractmethod
    def make(self, task: str) -> SimEnv:
        """Builds the env of one task, in the process that will run it."""
        # configs are sent to workers, envs never: a rendering context belongs to its process

    def starts_per_task(self) -> int | None:
        """How many starts of each task a published protocol plays, each once and in its own order;
        None if episodes start by their seeds alone."""
        return None

    def evaluation_seed(self, seed: int, episode: int) -> int:
        """The env seed of an evaluation's episode: `seed`, unless starts have an order of their
        own."""
        return seed

    def versions(self) -> dict[str, str]:
        """What else decides the numbers: simulator version, renderer, render preset."""
        return {}
