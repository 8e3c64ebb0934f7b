"""LIBERO and LIBERO-PRO: a Panda arm that rearranges objects, judged by the benchmark itself.

Follows what published evaluations do: 50 official start states per task, ten steps in which things
settle, cameras `agentview` and on the wrist, state = position, axis-angle and fingers of the hand,
actions = displacements of the hand and the gripper in [-1, 1] at 20 Hz. Liu et al. 2023 (arXiv
2306.03310), Zhou et al. 2025 (arXiv 2510.03827).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, field_validator

from vla.common.names import did_you_mean
from vla.config import ConfigError, ConfigPath, register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.envs.libero_parts.experts import Expert, expert_for
from vla.sim_eval.envs.libero_parts.installed import check_installed, versions
from vla.sim_eval.envs.libero_parts.observation import (
    ACTION_NAMES,
    STATE_NAMES,
    as_published,
    robot_state,
)
from vla.sim_eval.envs.libero_parts.progress import Progress
from vla.sim_eval.envs.libero_parts.simulation import Simulation
from vla.sim_eval.envs.libero_parts.suites import (
    STARTS,
    LiberoTask,
    horizon_of,
    suite_tasks,
    user_task,
)
from vla.sim_eval.mujoco.spaces import action_space, checked_action, observation_space
from vla.sim_eval.rendering import SceneRenderer, choose_backend, gl_renderer
from vla.types import Spec

CONTROL_HZ = 20.0
Camera = Literal["agentview", "wrist"]
CAMERAS: dict[Camera, str] = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
"""Our name of a camera -> that of the model."""
VISIBLE = (0, 1, 1, 0, 0, 0)
"""robosuite's models keep collision shapes in the first group of geoms."""


@register("envs", "libero")
class LiberoConfig(EnvConfig):
    """LIBERO's tasks, seen by cameras and named by an instruction; needs `vla[libero]`."""

    # `suite` is the config's key, but EnvConfig has a method of that name
    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["libero"] = "libero"
    suite_name: str = Field("libero_object", alias="suite")
    """libero_spatial, libero_object, libero_goal, libero_10, libero_90, or one of LIBERO-PRO such as
    libero_goal_swap."""
    tasks: tuple[str, ...] | None = None
    """Tasks of the suite by name, for example [put_the_bowl_on_the_plate]; null: all."""
    bddl: ConfigPath | None = None
    """A task of your own, described in a bddl file; it takes the place of the suite."""
    protocol: Literal["seeded", "official"] = "seeded"
    """Where evaluations start: `seeded` draws one of the 50 official starts by the episode's seed;
    `official` plays each of them once, which is what is published. Demonstrations always begin at
    new starts, drawn by the benchmark's own rules."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 128
    """Height and width of the pictures in pixels."""
    cameras: Annotated[tuple[Camera, ...], Field(min_length=1)] = ("agentview", "wrist")
    """What the policy sees."""
    preset: Literal["fast", "full"] = "fast"
    """Rendering: `fast` is without shadows, reflections and anti-aliasing; `full` is robosuite's
    own."""
    horizon: Annotated[int, Field(ge=1)] | None = None
    """Control steps after which an episode is cut off; null: as published for the suite."""

    @field_validator("tasks", "cameras")
    @classmethod
    def _named_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        if not names:
            raise ValueError("is empty: name at least one, or leave it out")
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: named twice")
        return names

    def spec(self) -> Spec:
        size = (self.image_size, self.image_size)
        return Spec(
            cameras=dict.fromkeys(self.cameras, size),
            state_names=STATE_NAMES,
            action_names=ACTION_NAMES,
            action_low=(-1.0,) * len(ACTION_NAMES),
            action_high=(1.0,) * len(ACTION_NAMES),
            control_hz=CONTROL_HZ,
        )

    def suite(self) -> Suite:
        """Raises LiberoError if LIBERO or the suite is not there, ConfigError for unknown tasks."""
        if self.bddl is not None:
            return Suite(f"libero/{self.bddl.stem}", (self._task(user_task(self.bddl)),))
        known = {task.name: task for task in suite_tasks(self.suite_name)}
        chosen = self.tasks if self.tasks is not None else tuple(known)
        for name in chosen:
            if name not in known:
                raise self._unknown_task(name)
        return Suite(self.suite_name, tuple(self._task(known[name]) for name in chosen))

    def _task(self, task: LiberoTask) -> Task:
        group = self.suite_name if self.bddl is None else "bddl"
        horizon = self.horizon or horizon_of(group)
        return Task(task.name, group, task.instruction, task.others, horizon)

    def _unknown_task(self, name: str) -> ConfigError:
        known = [task.name for task in suite_tasks(self.suite_name)]
        hint = did_you_mean(name, known)
        return ConfigError(
            [f"tasks: {self.suite_name} has no task {name!r}{hint}; it has: {', '.join(known)}"]
        )

    def make(self, task: str) -> LiberoEnv:
        """Raises LiberoError if LIBERO is not there or cannot build the task, ConfigError if there
        is no such task, RenderingError if the machine cannot render."""
        if self.bddl is not None:
            return LiberoEnv(self, user_task(self.bddl), ())
        tasks = suite_tasks(self.suite_name)
        for found in tasks:
            if found.name == task:
                # of the whole suite: a config of one task has wrong instructions, too
                other = (each.instruction for each in tasks if each.name != task)
                return LiberoEnv(self, found, tuple(dict.fromkeys(other)))
        raise self._unknown_task(task)

    def starts_per_task(self) -> int | None:
        return STARTS if self.protocol == "official" and self.bddl is None else None

    def evaluation_seed(self, seed: int, episode: int) -> int:
        # odd, as all seeds of evaluations are
        return 2 * episode + 1 if self.starts_per_task() else seed

    def versions(self) -> dict[str, str]:
        check_installed()
        return {**versions(), "gl_renderer": gl_renderer(), "render_preset": self.preset}


class LiberoEnv(SimEnv):
    """One LIBERO task as a gymnasium env; see `SimEnv` for what it observes and tells.

    The reward is 1 at a step at which the benchmark's judge is satisfied, else 0. It never
    terminates by itself: whoever runs it decides what success ends. It truncates at the horizon.

    Args:
        others: instructions of the suite's other tasks.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012
    render_mode = "rgb_array"
    renderer: SceneRenderer

    def __init__(self, config: LiberoConfig, task: LiberoTask, others: tuple[str, ...]) -> None:
        choose_backend()  # before mujoco is imported
        self.config, self.robot_spec = config, config.spec()
        self.task = config._task(task)
        self.observation_space = observation_space(self.robot_spec)
        self.action_space = action_space(self.robot_spec)
        self._others = others
        self._starts = None if task.starts is None else task.start_states()
        self.simulation = Simulation(task)
        self.model, self.data = self.simulation.model, self.simulation.data
        self._cameras = {name: int(self.model.camera(CAMERAS[name]).id) for name in config.cameras}
        size = config.image_size
        self.renderer = SceneRenderer(self.model, size, size, config.preset, groups=VISIBLE)
        self._progress: Progress | None = None
        self._expert: Expert | None = None

    # --- episodes -------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new episode, in which things have come to rest.

        The same seed gives the same start; without one, the next of the present sequence. An odd
        seed, as evaluations have, gives an official start, an even one, as demonstrations have, a
        new one: no evaluation starts where a demonstration started.
        """
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        start = self._official_start(seed)
        if start is None:
            self.simulation.draw(seed)
        else:
            self.simulation.restore(start)
        self._steps = 0
        self._progress = Progress(self.simulation)
        self._expert = None
        return self.observe(), self._info(self.simulation.solved)

    def _official_start(self, seed: int) -> np.ndarray | None:
        """None if the seed asks for a new start, or the task has no official ones."""
        if self._starts is None or seed % 2 == 0:
            return None
        if self.config.protocol == "official":
            return np.asarray(self._starts[seed // 2 % len(self._starts)])
        return np.asarray(self._starts[self.np_random.integers(len(self._starts))])

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Actions are clipped to [-1, 1].

        Raises ValueError for a wrong shape or NaN, RuntimeError before `reset`.
        """
        action = checked_action(action, self.robot_spec)
        progress = self._begun()
        success = self.simulation.step(np.clip(action, -1.0, 1.0))
        self._steps += 1
        progress.update(success)
        truncated = self._steps >= self.task.horizon
        return self.observe(), float(success), False, truncated, self._info(success)

    def expert_action(self) -> np.ndarray:
        """Raises RuntimeError before `reset`, or if the task has no expert."""
        self._begun()
        if self._expert is None:
            self._expert = expert_for(self.task.group, self.task.name, self.simulation)
        return np.clip(self._expert.action(), -1.0, 1.0).astype(np.float32)

    def _begun(self) -> Progress:
        if self._progress is None:
            raise RuntimeError("the episode has not begun: call reset first")
        return self._progress

    def wrong_instructions(self) -> tuple[str, ...]:
        return self._others

    # --- what is seen ---------------------------------------------------------------------------

    def observe(self) -> dict[str, Any]:
        simulation = self.simulation
        cameras = self.config.cameras if self.render_images else ()
        return {
            "images": {camera: self._image(camera) for camera in cameras},
            "state": robot_state(simulation.hand, simulation.hand_quaternion, simulation.fingers),
        }

    def _image(self, camera: Camera) -> np.ndarray:
        return as_published(self.renderer.render(self.data, self._cameras[camera]))

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The picture of the first camera, uint8 (H, W, 3)."""
        return self._image(self.config.cameras[0])

    def close(self) -> None:
        self.renderer.close()
        self.simulation.close()

    def _info(self, success: bool) -> dict[str, Any]:
        return {
            "instruction": self.task.instruction,
            "success": success,
            "failure": self._begun().failure(),
        }
