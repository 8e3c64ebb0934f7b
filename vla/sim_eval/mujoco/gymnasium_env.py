"""Makes a `SimEnv` of a MuJoCo env that others have written for gymnasium.

Physics, observations and rewards stay theirs, to the bit. Added are the instruction, success and
failure in words, the horizon (their time limit is a wrapper that is left away), pictures by our
renderer, and the repeatable seeds.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from vla.common.names import did_you_mean
from vla.common.renamed import announce_renamed
from vla.common.versions import version_of
from vla.config import ConfigError, UserError
from vla.sim_eval.env import SimEnv, Task
from vla.sim_eval.mujoco.spaces import action_space, checked_action, observation_space
from vla.sim_eval.rendering import (
    Preset,
    SceneRenderer,
    choose_backend,
    gl_renderer,
)
from vla.types import Spec

FILM_SIZE = 192  # pixels, where the robot itself sees nothing
FIELD_OF_VIEW = math.radians(45)  # MuJoCo's default
_FORMER_HOOKS = {"begin": "on_reset", "judge": "outcome", "look": "observe_raw"}
LEVEL = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)
"""Quaternion of a camera that looks along +y; without a turn it looks straight down."""


class GymEnv(SimEnv):
    """A gymnasium MuJoCo env as a `SimEnv`.

    A subclass says how an episode went (`outcome`), and may say who its expert is. Without cameras,
    `render` still draws one, for films.

    Args:
        sim: the env, without gymnasium's wrappers. This env owns it, and closes it.
        spec: its cameras carry the names of the model's.
        task: what is asked for; the episode is truncated at its horizon.
        camera: of the model, drawn by `render`.
        preset: of the pictures.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    renderer: SceneRenderer

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Each class has both spellings of what it defines. So `super().judge()` and
        # `self.look()` of a subclass written for the former names still reach the right
        # method, and nothing calls itself.
        for former, name in _FORMER_HOOKS.items():
            if former in vars(cls) and name not in vars(cls):
                announce_renamed(f"{cls.__name__}.{former}", name)
                setattr(cls, name, vars(cls)[former])
            elif name in vars(cls):
                setattr(cls, former, vars(cls)[name])

    def __init__(
        self,
        sim: Any,
        spec: Spec,
        task: Task,
        *,
        camera: str,
        preset: Preset = "fast",
    ) -> None:
        self.sim, self.robot_spec, self.task = sim, spec, task
        self.model, self.data = find_model(sim)
        # a renderer has one size, so all cameras have that of the first
        height, width = next(iter(spec.cameras.values()), (FILM_SIZE, FILM_SIZE))
        self.renderer = SceneRenderer(self.model, height, width, preset)
        self._cameras = {name: int(self.model.camera(name).id) for name in spec.cameras}
        self._film_camera = int(self.model.camera(camera).id)
        self._low = np.asarray(spec.action_low, dtype=np.float32)
        self._high = np.asarray(spec.action_high, dtype=np.float32)
        self.observation_space = observation_space(spec)
        self.action_space = action_space(spec)
        self.raw: Any = None
        """The latest observation as gymnasium's env gave it; None before `reset`."""
        self.steps, self.return_ = 0, 0.0

    # --- what a subclass says ---------------------------------------------------------------------

    def on_reset(self, seed: int, info: dict[str, Any]) -> None:
        """After the simulator's reset: `raw` is known, and `info` is the simulator's."""

    def outcome(
        self,
        info: dict[str, Any],
        *,
        terminated: bool,
    ) -> tuple[bool, str]:
        """-> whether the task is solved at this step, and how far the episode came;
        `info` is the simulator's."""
        return False, ""

    def observe_raw(self) -> Any:
        """The simulator's own observation of the present state."""
        return self.sim._get_obs()

    # former names, for subclasses that call them
    begin = on_reset
    judge = outcome
    look = observe_raw

    def flatten(self, raw: Any) -> np.ndarray:
        """The simulator's observation as the state (S,): of a goal-conditioned env,
        observation and desired goal."""
        if isinstance(raw, dict):
            raw = np.concatenate([raw["observation"], raw["desired_goal"]])
        return np.asarray(raw, dtype=np.float32)

    def mark_goal(self) -> None:
        """Before a picture is drawn: puts marks that do not take part in the
        physics where they belong."""

    def expert_action(self) -> np.ndarray:
        raise RuntimeError(f"{self.task.name} has no expert")

    def changing_parts(self) -> tuple[object, ...]:
        # the mazes of gymnasium-robotics keep the robot one level down
        inner = getattr(self.sim, "point_env", None)
        return (self, self.sim) if inner is None else (self, self.sim, inner)

    # --- gymnasium's methods ----------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new episode.

        The same seed gives the same start; without one, the next start of the present sequence.
        """
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self.raw, info = self.sim.reset(seed=seed)
        self.steps, self.return_ = 0, 0.0
        self.on_reset(seed, info)
        return self._observation(self.raw), self._info(info, terminated=False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Actions are clipped to the spec.

        Raises ValueError for a wrong shape or NaN, RuntimeError before `reset`.
        """
        action = checked_action(action, self.robot_spec)
        if self.raw is None:
            raise RuntimeError("step before reset: call reset first")
        clipped = np.clip(action, self._low, self._high)
        # its own truncation is dropped: the horizon is the task's
        self.raw, reward, terminated, _, info = self.sim.step(clipped)
        self.steps += 1
        self.return_ += float(reward)
        # numpy's bool is no bool: `terminated is True` and JSON would both fail
        terminated = bool(terminated)
        truncated = self.steps >= self.task.horizon
        info = self._info(info, terminated=terminated)
        return self._observation(self.raw), float(reward), terminated, truncated, info

    def _info(
        self,
        info: dict[str, Any],
        *,
        terminated: bool,
    ) -> dict[str, Any]:
        """The info of `SimEnv`; the simulator's own is left out, since its keys
        differ from suite to suite."""
        success, failure = self.outcome(info, terminated=terminated)
        return {"instruction": self.task.instruction, "success": success, "failure": failure}

    def observe(self) -> dict[str, Any]:
        return self._observation(self.observe_raw())

    def _observation(self, raw: Any) -> dict[str, Any]:
        images = {}
        if self.render_images:
            images = {name: self._draw(number) for name, number in self._cameras.items()}
        return {"images": images, "state": self.flatten(raw)}

    def _draw(self, camera: int) -> np.ndarray:
        self.mark_goal()
        return self.renderer.render(self.data, camera)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """A picture of the present state, uint8 (H, W, 3).

        Raises RenderingError if the machine cannot render.
        """
        return self._draw(self._film_camera)

    def close(self) -> None:
        self.renderer.close()
        self.sim.close()


def unknown_task(suite: str, name: str, names: Iterable[str]) -> ConfigError:
    """The error that names the tasks of a suite."""
    known = list(names)
    return ConfigError(
        [f"{suite} has no task {name!r}{did_you_mean(name, known)}; it has: {', '.join(known)}"]
    )


def prepare_backend() -> None:
    """Chooses the OpenGL backend before MuJoCo is imported. Envs without cameras do without any."""
    choose_backend(required=False)


class MissingPackageError(UserError):
    """An env needs a package that is not installed; the message names it, and how to install it."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"{package} is not installed, and this env needs it; "
            "install it with: pip install 'vla[sim]'"
        )


def import_robotics(module: str) -> Any:
    """A module of gymnasium-robotics.

    Raises MissingPackageError if gymnasium-robotics is not installed.
    """
    try:
        # the import prints advice about envs that are not used here
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"gymnasium_robotics.{module}")
    except ModuleNotFoundError as error:
        # something that gymnasium-robotics itself needs is another error
        if error.name != "gymnasium_robotics":
            raise
        raise MissingPackageError("gymnasium-robotics") from error


def listed_once(tasks: tuple[Any, ...]) -> tuple[Any, ...]:
    """Validator of a config's tasks. Raises ValueError, which becomes a ConfigError."""
    if not tasks:
        raise ValueError("is empty: name at least one task")
    twice = {task for task in tasks if tasks.count(task) > 1}
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))}: named twice")
    return tasks


def find_model(sim: Any) -> tuple[Any, Any]:
    """`mujoco.MjModel` and `mujoco.MjData` of a gymnasium env."""
    # the mazes of gymnasium-robotics keep theirs one level down
    holder = getattr(sim, "point_env", sim)
    return holder.model, holder.data


def add_camera(
    holder: Any,
    file: str,
    name: str,
    position: Sequence[float],
    quaternion: Sequence[float],
) -> None:
    """Gives a gymnasium `MujocoEnv` that has just been built a camera: its model is
    compiled again from its file.

    Args:
        holder: the env; its `model` and `data` are replaced.
        file: MJCF of the model.
        position: in the world, metres.
        quaternion: (w, x, y, z); (1, 0, 0, 0) looks straight down.
    """
    mujoco = importlib.import_module("mujoco")
    # A compiled model cannot grow. A camera takes no part in the physics, and body and
    # joint numbers stay as they are.
    scene = mujoco.MjSpec.from_file(file)
    scene.worldbody.add_camera(name=name, pos=list(position), quat=list(quaternion))
    holder.model = scene.compile()
    holder.data = mujoco.MjData(holder.model)


def gym_versions(spec: Spec, preset: Literal["fast", "full"], *packages: str) -> dict[str, str]:
    """What decides the numbers: versions of the simulators and, if there are cameras, of what
    draws.

    Raises MissingPackageError if one is not installed.
    """
    versions = {name: _version(name) for name in ("mujoco", "gymnasium", *packages)}
    # without cameras no number depends on the renderer, and asking for it would need OpenGL
    if spec.cameras:
        versions |= {"gl_renderer": gl_renderer(), "render_preset": preset}
    return versions


def _version(package: str) -> str:
    version = version_of(package)
    if version is None:
        raise MissingPackageError(package)
    return version
