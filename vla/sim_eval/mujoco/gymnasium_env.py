"""Makes a `SimEnv` of a MuJoCo env that others have written for gymnasium.

Physics, observations and rewards stay theirs, to the bit. Added are the instruction, success and failure in words, the
horizon (their time limit is a wrapper that is left away), pictures by our renderer, and the repeatable seeds.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np

from vla.common.names import did_you_mean
from vla.common.versions import version_of
from vla.config import ConfigError, UserError
from vla.sim_eval.env import SimEnv, Task
from vla.sim_eval.rendering import (
    Preset,
    RenderingError,
    SceneRenderer,
    choose_backend,
    gl_renderer,
)
from vla.types import Spec

FILM_SIZE = 192  # pixels, where the robot itself sees nothing
FIELD_OF_VIEW = math.radians(45)  # MuJoCo's default
LEVEL = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)
"""Quaternion of a camera that looks along +y; without a turn it looks straight down."""


class GymEnv(SimEnv):
    """A gymnasium MuJoCo env as a `SimEnv`.

    A subclass says how an episode went (`judge`), and may say who its expert is. Without cameras, `render` still draws
    one, for films.

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

    def __init__(
        self, sim: Any, spec: Spec, task: Task, *, camera: str, preset: Preset = "fast"
    ) -> None:
        self.sim, self.robot_spec, self.task = sim, spec, task
        self.model, self.data = find_model(sim)
        height, width = next(iter(spec.cameras.values()), (FILM_SIZE, FILM_SIZE))
        self.renderer = SceneRenderer(self.model, height, width, preset)
        self._cameras = {name: int(self.model.camera(name).id) for name in spec.cameras}
        self._film_camera = int(self.model.camera(camera).id)
        self._low, self._high = (
            np.asarray(v, dtype=np.float32) for v in (spec.action_low, spec.action_high)
        )
        self.action_space = gymnasium.spaces.Box(self._low, self._high, dtype=np.float32)
        pictures: dict[str, gymnasium.Space[Any]] = {
            name: gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8)
            for name, size in spec.cameras.items()
        }
        state = gymnasium.spaces.Box(-np.inf, np.inf, (spec.state_dim,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {"images": gymnasium.spaces.Dict(pictures), "state": state}
        )
        self.raw: Any = None
        """The latest observation as gymnasium's env gave it; None before `reset`."""
        self.steps, self.return_ = 0, 0.0

    # --- what a subclass says -----------------------------------------------------------------------

    def begin(self, seed: int, told: dict[str, Any]) -> None:
        """After the simulator's reset, `raw` is known; `told` is its info."""

    def judge(self, told: dict[str, Any], *, terminated: bool) -> tuple[bool, str]:
        """-> whether the task is solved at this step, and how far the episode came; `told` is the simulator's info."""
        return False, ""

    def look(self) -> Any:
        """The simulator's own observation of the present state."""
        return self.sim._get_obs()

    def flatten(self, raw: Any) -> np.ndarray:
        """The simulator's observation as the state (S,): of a goal-conditioned env, observation and desired goal."""
        if isinstance(raw, dict):
            raw = np.concatenate([raw["observation"], raw["desired_goal"]])
        return np.asarray(raw, dtype=np.float32)

    def mark_goal(self) -> None:
        """Before a picture is drawn: puts marks that do not take part in the physics where they belong."""

    def expert_action(self) -> np.ndarray:
        raise RuntimeError(f"{self.task.name} has no expert")

    # --- gymnasium's methods ------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new episode. The same seed gives the same start; without one, the next start of the present sequence."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self.raw, told = self.sim.reset(seed=seed)
        self.steps, self.return_ = 0, 0.0
        self.begin(seed, told)
        return self._observation(self.raw), self._info(told, terminated=False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Actions are clipped to the spec. Raises ValueError for a wrong shape or NaN, RuntimeError before `reset`."""
        action = np.asarray(action, dtype=np.float32)
        if action.shape != self._low.shape or not np.isfinite(action).all():
            raise ValueError(f"action: expected {self._low.shape} finite numbers, got {action}")
        if self.raw is None:
            raise RuntimeError("step before reset: call reset first")
        self.raw, reward, terminated, _, told = self.sim.step(
            np.clip(action, self._low, self._high)
        )
        self.steps += 1
        self.return_ += float(reward)
        terminated, truncated = bool(terminated), self.steps >= self.task.horizon
        return (
            self._observation(self.raw),
            float(reward),
            terminated,
            truncated,
            self._info(told, terminated=terminated),
        )

    def _info(self, told: dict[str, Any], *, terminated: bool) -> dict[str, Any]:
        success, failure = self.judge(told, terminated=terminated)
        return {"instruction": self.task.instruction, "success": success, "failure": failure}

    def observe(self) -> dict[str, Any]:
        return self._observation(self.look())

    def _observation(self, raw: Any) -> dict[str, Any]:
        names = self._cameras if self.render_images else {}
        return {
            "images": {name: self._draw(i) for name, i in names.items()},
            "state": self.flatten(raw),
        }

    def _draw(self, camera: int) -> np.ndarray:
        self.mark_goal()
        return self.renderer.render(self.data, camera)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """A picture of the present state, uint8 (H, W, 3). Raises RenderingError where the machine cannot render."""
        return self._draw(self._film_camera)

    def close(self) -> None:
        self.renderer.close()
        self.sim.close()


def unknown_task(suite: str, name: str, names: Iterable[str]) -> ConfigError:
    """The error that tells which tasks a suite has."""
    known = list(names)
    return ConfigError(
        [f"{suite} has no task {name!r}{did_you_mean(name, known)}; it has: {', '.join(known)}"]
    )


def prepare_backend() -> None:
    """Chooses the OpenGL backend before MuJoCo is imported. Envs without cameras do without any."""
    with contextlib.suppress(RenderingError):
        choose_backend()


class MissingPackageError(UserError):
    """An env needs a package that is not installed; the message names it, and how to install it."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"{package} is not installed, and this env needs it; install it with: pip install 'vla[sim]'"
        )


def import_robotics(module: str) -> Any:
    """A module of gymnasium-robotics, imported without what it prints then: advice about envs that are not used here.

    Raises MissingPackageError where gymnasium-robotics is not installed.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"gymnasium_robotics.{module}")
    except ModuleNotFoundError as error:
        if error.name != "gymnasium_robotics":
            raise
        raise MissingPackageError("gymnasium-robotics") from error


def listed_once(tasks: tuple[Any, ...]) -> tuple[Any, ...]:
    """Validator of a config's tasks. Raises ValueError, which becomes a ConfigError."""
    if not tasks:
        raise ValueError("is empty: name at least one task")
    if twice := {task for task in tasks if tasks.count(task) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))}: named twice")
    return tasks


def find_model(sim: Any) -> tuple[Any, Any]:
    """`mujoco.MjModel` and `mujoco.MjData` of a gymnasium env, which some keep one level down."""
    holder = getattr(sim, "point_env", sim)
    return holder.model, holder.data


def add_camera(
    holder: Any, file: str, name: str, position: Sequence[float], quaternion: Sequence[float]
) -> None:
    """Gives a gymnasium `MujocoEnv` that has just been built a camera: its model is compiled anew from its file.

    Args:
        holder: the env; its `model` and `data` are replaced.
        file: MJCF of the model.
        position: in the world, metres.
        quaternion: (w, x, y, z); (1, 0, 0, 0) looks straight down.
    """
    mujoco = importlib.import_module("mujoco")
    scene = mujoco.MjSpec.from_file(file)
    scene.worldbody.add_camera(name=name, pos=list(position), quat=list(quaternion))
    holder.model = scene.compile()
    holder.data = mujoco.MjData(holder.model)


def gym_versions(spec: Spec, preset: Literal["fast", "full"], *packages: str) -> dict[str, str]:
    """What decides the numbers: versions of the simulators and, where there are cameras, of what draws.

    Raises MissingPackageError where one is not installed.
    """
    versions = {name: _version(name) for name in ("mujoco", "gymnasium", *packages)}
    return versions | (
        {"gl_renderer": gl_renderer(), "render_preset": preset} if spec.cameras else {}
    )


def _version(package: str) -> str:
    version = version_of(package)
    if version is None:
        raise MissingPackageError(package)
    return version
