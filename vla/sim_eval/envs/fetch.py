"""Fetch of gymnasium-robotics: an arm that reaches, pushes, slides, or picks and
places, to a goal in its state.

State: gymnasium's observation, then the goal. Version 4 of the envs. `reach` has no
object, so its state is shorter and it is played alone; the other three share one spec.
Experts are in `experts/fetch.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from vla.config import register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.envs.experts.fetch import Expert, expert_of
from vla.sim_eval.mujoco.gymnasium_env import (
    GymEnv,
    gym_versions,
    import_robotics,
    listed_once,
    prepare_backend,
    unknown_task,
)
from vla.sim_eval.mujoco.spaces import square_camera
from vla.types import Spec

CAMERA = "external_camera_0"  # in front of the table, opposite the robot
CONTROL_HZ = 25.0
MOVED = 0.01  # metres by which an object that has been touched is displaced
LIFTED = 0.03  # metres above its rest at which an object has been grasped

FetchTask = Literal["reach", "push", "slide", "pick-and-place"]
TEXTS: dict[FetchTask, tuple[str, ...]] = {
    "reach": ("Move the gripper to the red mark", "Reach the red point with the gripper"),
    "push": ("Push the block to the red mark", "Shove the cube over the table to the red point"),
    "slide": (
        "Hit the puck so that it slides to the red mark",
        "Strike the puck and let it come to rest at the red point",
    ),
    "pick-and-place": (
        "Bring the block to the red mark",
        "Pick up the cube and hold it at the red point",
    ),
}
MODULES: dict[FetchTask, tuple[str, str]] = {
    "reach": ("reach", "MujocoFetchReachEnv"),
    "push": ("push", "MujocoFetchPushEnv"),
    "slide": ("slide", "MujocoFetchSlideEnv"),
    "pick-and-place": ("pick_and_place", "MujocoFetchPickAndPlaceEnv"),
}


def _names(*groups: str) -> tuple[str, ...]:
    """Three names for each group, in the order of gymnasium's observation."""
    return tuple(f"{group}_{axis}" for group in groups for axis in ("x", "y", "z"))


FINGERS = ("finger_right", "finger_left")
FINGER_VELOCITIES = ("finger_right_velocity", "finger_left_velocity")
REACH_STATE = (
    *_names("hand"),
    *FINGERS,
    *_names("hand_velocity"),
    *FINGER_VELOCITIES,
    *_names("goal"),
)
OBJECT_STATE = (
    *_names("hand", "object", "object_relative"),
    *FINGERS,
    *_names("object_rotation", "object_velocity", "object_rotation_velocity", "hand_velocity"),
    *FINGER_VELOCITIES,
    *_names("goal"),
)


@register("envs", "fetch")
class FetchConfig(EnvConfig):
    """A Fetch arm of gymnasium-robotics, with the goal in its state."""

    type: Literal["fetch"] = "fetch"
    tasks: tuple[FetchTask, ...] = ("push", "slide", "pick-and-place")
    """Tasks by name: push, slide and pick-and-place, or reach alone."""
    reward: Literal["sparse", "dense"] = "sparse"
    """`sparse`: 0 within 5 cm of the goal, else -1. `dense`: minus the distance to the goal."""
    image_size: Annotated[int, Field(ge=16, le=1024)] | None = None
    """Height and width in pixels of a camera in front of the table; null: none, the
    robot has its state alone."""
    preset: Literal["fast", "full"] = "fast"
    """Rendering: `full` adds shadows, reflections and anti-aliasing."""
    horizon: Annotated[int, Field(ge=1)] = 50
    """Control steps after which an episode is cut off."""

    _listed_once = field_validator("tasks")(listed_once)

    @model_validator(mode="after")
    def _one_state(self) -> FetchConfig:
        if "reach" in self.tasks and len(self.tasks) > 1:
            raise ValueError(
                f"tasks: reach has no object and a state of {len(REACH_STATE)} numbers, the others "
                f"have {len(OBJECT_STATE)}: give tasks: [reach] in a config of its own"
            )
        return self

    def spec(self) -> Spec:
        cameras = square_camera(CAMERA, self.image_size)
        state = REACH_STATE if "reach" in self.tasks else OBJECT_STATE
        actions = ("dx", "dy", "dz", "gripper")
        return Spec(
            cameras=cameras,
            state_names=state,
            action_names=actions,
            action_low=(-1.0,) * 4,
            action_high=(1.0,) * 4,
            control_hz=CONTROL_HZ,
        )

    def suite(self) -> Suite:
        return Suite("fetch", tuple(self._task(name) for name in self.tasks))

    def _task(self, name: FetchTask) -> Task:
        first, *others = TEXTS[name]
        return Task(name, "fetch", first, tuple(others), self.horizon)

    def make(self, task: str) -> SimEnv:
        """Raises ConfigError if this config has no such task."""
        if task not in self.tasks:
            raise unknown_task("this suite of fetch", task, self.tasks)
        return FetchEnv(self, self._task(task))  # type: ignore[arg-type]

    def versions(self) -> dict[str, str]:
        return gym_versions(self.spec(), self.preset, "gymnasium-robotics") | {"env": "Fetch-v4"}


class FetchEnv(GymEnv):
    """One task; see `SimEnv` for what it observes and tells. It never terminates by itself."""

    def __init__(self, config: FetchConfig, task: Task) -> None:
        name: FetchTask = task.name  # type: ignore[assignment]
        sim = _build(name, config.reward)
        super().__init__(sim, config.spec(), task, camera=CAMERA, preset=config.preset)
        self._mark = int(self.model.site("target0").id)
        self._expert: Expert | None = None
        self.expert_has_memory = task.name == "slide"  # it goes on sliding once it has begun

    def on_reset(self, seed: int, info: dict[str, Any]) -> None:
        self._expert = expert_of(self.task.name)
        self._start = np.array(self.raw["achieved_goal"])
        # both stay true once they were: a failure says how far the episode came, not how it ended
        self._touched = self._grasped = False

    def outcome(
        self,
        info: dict[str, Any],
        *,
        terminated: bool,
    ) -> tuple[bool, str]:
        place, goal = self.raw["achieved_goal"], self.raw["desired_goal"]
        # gymnasium's own judgement, by which published rates are counted
        success = bool(self.sim._is_success(place, goal))
        self._touched |= bool(np.linalg.norm(place - self._start) > MOVED)
        lifted = bool(place[2] - self._start[2] > LIFTED)
        self._grasped |= lifted
        return success, "" if success else self._failure(lifted)

    def _failure(self, lifted: bool) -> str:
        if self.task.name == "reach" or not self._touched:
            return "never reached"
        # half of the goals of pick-and-place lie on the table, where a push is enough
        in_the_air = self.raw["desired_goal"][2] - self._start[2] > LIFTED
        if in_the_air and not self._grasped:
            return "no grasp"
        return "dropped" if in_the_air and not lifted else "missed goal"

    def mark_goal(self) -> None:
        # the place alone: gymnasium's way, another forward pass, would touch the physics
        self.data.site_xpos[self._mark] = self.sim.goal

    def expert_action(self) -> np.ndarray:
        """Raises RuntimeError before `reset`."""
        if self._expert is None:
            raise RuntimeError("expert_action before reset: call reset first")
        # asked for again: `raw` is of the last step, and the goal may have been moved since
        raw = self.observe_raw()
        action = self._expert(raw["observation"], raw["desired_goal"])
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def _build(name: FetchTask, reward: str) -> Any:
    prepare_backend()
    module, class_name = MODULES[name]
    env_class = getattr(import_robotics(f"envs.fetch.{module}"), class_name)
    return env_class(reward_type=reward)
