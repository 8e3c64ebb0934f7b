"""Locomotion: gymnasium's robots that run, swim and balance (its version 5), seen
through their own observations.

The return is the number that counts. Success is a summary of it: the robot has not fallen until the
horizon, and its return reaches `success_return`. For hopper, halfcheetah and walker2d this is 80 %
of the median return of the last published snapshot (see `experts/policy_snapshots.py`; its mean
action, 20 episodes of `configs/locomotion.yaml`), rounded to 50; for the other robots the threshold
that gymnasium registers with the env.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from pydantic import Field

from vla.config import register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.envs.experts.policy_snapshots import Behaviour, BehaviourConfig
from vla.sim_eval.mujoco.gymnasium_env import (
    LEVEL,
    GymEnv,
    add_camera,
    gym_versions,
    prepare_backend,
    unknown_task,
)
from vla.sim_eval.mujoco.hidden_world import HiddenWorld, HiddenWorldConfig
from vla.sim_eval.mujoco.spaces import square_camera
from vla.types import Spec

CAMERA = "track"
HORIZON = 1000
_FREE_JOINT = 0  # mjtJoint.mjJNT_FREE
RobotName = Literal["hopper", "halfcheetah", "walker2d", "ant", "swimmer", "inverted-pendulum"]


@dataclass(frozen=True)
class _RobotFacts:
    """One robot's env.

    Attributes:
        env_id: gymnasium's name.
        texts: the instruction, then its paraphrases.
        success_return: None takes the threshold that gymnasium has registered.
    """

    env_id: str
    texts: tuple[str, ...]
    success_return: float | None = None


_RUN = ("Run forward as fast as you can without falling", "Run as fast as possible and do not fall")
_FORWARD = (
    "Run forward as fast as you can",
    "Move forward at the highest speed that you can reach",
)
# three robots have published snapshots to be measured by; see the top of the file
ROBOTS: dict[RobotName, _RobotFacts] = {
    "hopper": _RobotFacts(
        "Hopper-v5", ("Hop forward as fast as you can without falling", *_RUN), 3000.0
    ),
    "halfcheetah": _RobotFacts("HalfCheetah-v5", _FORWARD, 3350.0),
    "walker2d": _RobotFacts(
        "Walker2d-v5", ("Walk forward as fast as you can without falling", *_RUN), 4150.0
    ),
    "ant": _RobotFacts("Ant-v5", _RUN),
    "swimmer": _RobotFacts("Swimmer-v5", ("Swim forward as fast as you can", *_FORWARD[1:])),
    "inverted-pendulum": _RobotFacts(
        "InvertedPendulum-v5", ("Keep the pole upright", "Balance the pole on the cart")
    ),
}


@register("envs", "locomotion")
class LocomotionConfig(EnvConfig):
    """Gymnasium's MuJoCo robots that run, swim or balance."""

    type: Literal["locomotion"] = "locomotion"
    robot: RobotName = "hopper"
    """Whose states and actions these are: hopper, halfcheetah, walker2d, ant,
    swimmer or inverted-pendulum."""
    image_size: Annotated[int, Field(ge=16, le=1024)] | None = None
    """Height and width in pixels of a camera that follows the robot; null: none, the
    robot has its state alone."""
    preset: Literal["fast", "full"] = "fast"
    """Rendering: `full` adds shadows, reflections and anti-aliasing."""
    horizon: Annotated[int, Field(ge=1)] = HORIZON
    """Control steps after which an episode is cut off; published returns are those of 1000."""
    success_return: float | None = None
    """Return from which an episode counts as solved, if the robot has not fallen; null:
    the robot's own threshold."""
    hidden: HiddenWorldConfig | None = None
    """Physics that every episode draws and no policy is shown, such as `{mass: 0.5}`: domain
    randomisation. Recordings hold the factors as the column `privileged`. null: gymnasium's own."""
    behaviour: BehaviourConfig | None = None
    """Who the expert is: snapshots of a trained policy. null: there is no expert."""

    def spec(self) -> Spec:
        cameras = square_camera(CAMERA, self.image_size)
        return Spec(cameras, *_spec_fields(self.robot))

    def suite(self) -> Suite:
        first, *others = ROBOTS[self.robot].texts
        # played to its end: the return over the whole horizon is what others publish
        task = Task(
            self.robot, "locomotion", first, tuple(others), self.horizon, ends_at_success=False
        )
        return Suite(f"locomotion/{self.robot}", (task,))

    def make(self, task: str) -> SimEnv:
        """Raises ConfigError if there is no such task, or no such snapshots."""
        if task != self.robot:
            raise unknown_task(self.suite().name, task, (self.robot,))
        return LocomotionEnv(self, self.suite().task(task))

    def versions(self) -> dict[str, str]:
        """Raises ConfigError if there are no such snapshots: before a dataset is begun."""
        versions = gym_versions(self.spec(), self.preset)
        versions["env"] = ROBOTS[self.robot].env_id
        expert = self.expert()
        # who acted is part of what decides a dataset's numbers
        return versions if expert is None else versions | {"snapshots": expert.digest}

    def expert(self) -> Behaviour | None:
        """Who acts as the expert; None if nobody does.

        Raises ConfigError if there are no such snapshots.
        """
        spec = self.spec()
        sizes = (spec.state_dim, spec.action_dim)
        return None if self.behaviour is None else Behaviour(self.behaviour, self.robot, sizes)


class LocomotionEnv(GymEnv):
    """One robot; see `SimEnv` for what it observes and tells.

    A robot that falls terminates the episode.
    """

    def __init__(self, config: LocomotionConfig, task: Task) -> None:
        # before the simulator: a wrong path is found at once
        self._behaviour = config.expert()
        sim = _build(config.robot)
        super().__init__(sim, config.spec(), task, camera=CAMERA, preset=config.preset)
        self._hidden: HiddenWorld | None = None
        if config.hidden is not None:
            self._hidden = HiddenWorld(self.model, config.hidden)
            self.privileged_names = self._hidden.names
        own = config.success_return
        self._success_return = threshold(config.robot) if own is None else own

    def on_reset(self, seed: int, info: dict[str, Any]) -> None:
        if self._hidden is not None:
            # a stream of its own: the starts are those of the same seeds without it
            self._hidden.draw(np.random.default_rng((seed, 5)))
        if self._behaviour is not None:
            self._behaviour.begin(seed)
            self.expert_name = f"snapshot {self._behaviour.current.index}"

    def privileged(self) -> np.ndarray:
        return np.zeros(0, np.float32) if self._hidden is None else self._hidden.factors

    def privileged_range(self) -> tuple[np.ndarray, np.ndarray]:
        return super().privileged_range() if self._hidden is None else self._hidden.bounds()

    def set_privileged(self, values: np.ndarray) -> None:
        if self._hidden is None:
            super().set_privileged(values)
        else:
            self._hidden.apply(values)

    def outcome(
        self,
        info: dict[str, Any],
        *,
        terminated: bool,
    ) -> tuple[bool, str]:
        # in these envs nothing but a fall terminates
        if terminated:
            return False, "fell"
        fast = self.return_ >= self._success_return
        return self.steps >= self.task.horizon and fast, "" if fast else "too slow"

    def expert_action(self) -> np.ndarray:
        """The snapshot's action, clipped. Raises RuntimeError if no snapshots are given."""
        if self._behaviour is None:
            raise RuntimeError(
                f"{self.task.name} has no expert: set env.behaviour.path to a file of snapshots"
            )
        # in full precision: `state` is rounded to float32
        action = self._behaviour(np.asarray(self.raw, dtype=np.float64))
        return np.clip(action.astype(np.float32), self._low, self._high)


def threshold(robot: RobotName) -> float:
    """The return from which an episode of the robot counts as solved."""
    facts = ROBOTS[robot]
    found = facts.success_return
    if found is None:
        found = _registered(robot).reward_threshold
    assert found is not None, f"gymnasium registers no threshold for {facts.env_id}"
    return float(found)


def _registered(robot: RobotName) -> Any:
    return gymnasium.spec(ROBOTS[robot].env_id)


def _build(robot: RobotName) -> Any:
    prepare_backend()
    # unwrapped: gymnasium's TimeLimit would cut episodes off by a horizon that is not the config's
    sim: Any = gymnasium.make(ROBOTS[robot].env_id, disable_env_checker=True).unwrapped
    if robot == "inverted-pendulum":  # the others have a camera
        add_camera(sim, sim.fullpath, CAMERA, (0.0, -2.8, 0.2), LEVEL)
    return sim


@functools.cache
def _spec_fields(
    robot: RobotName,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...], tuple[float, ...], float]:
    """State names, action names, least and greatest actions and control rate, from the model."""
    sim = _build(robot)
    model = sim.model
    state = _state_names(model, sim.observation_structure)
    driven = model.actuator_trnid[:, 0]  # the joint of each actuator
    actions = tuple(str(model.joint(int(i)).name) for i in driven)
    low = tuple(float(v) for v in sim.action_space.low)
    high = tuple(float(v) for v in sim.action_space.high)
    hz = 1 / sim.dt
    sim.close()
    return state, actions, low, high, hz


def _state_names(
    model: Any,
    layout: Mapping[str, int],
) -> tuple[str, ...]:
    """A name for every number of the observation; `layout` is gymnasium's
    `observation_structure`."""
    positions: list[str] = []
    velocities: list[str] = []
    for i in range(model.njnt):
        name = model.joint(i).name
        if int(model.jnt_type[i]) != _FREE_JOINT:
            positions.append(name)
            velocities.append(f"{name}_velocity")
            continue
        # a free joint has seven positions (the last four a quaternion) but six velocities
        places = [f"{name}_{axis}" for axis in ("x", "y", "z")]
        positions += [*places, *(f"{name}_{axis}" for axis in ("qw", "qx", "qy", "qz"))]
        turns = [f"{name}_{axis}" for axis in ("wx", "wy", "wz")]
        velocities += [f"{axis}_velocity" for axis in [*places, *turns]]
    # gymnasium leaves out where the robot is, so that a gait does not depend on it
    names = [*positions[layout.get("skipped_qpos", 0) :], *velocities]
    if layout.get("cfrc_ext"):
        # MuJoCo has torques before forces; body 0, the world, is left out
        parts = ("torque_x", "torque_y", "torque_z", "force_x", "force_y", "force_z")
        bodies = [model.body(i).name or f"body{i}" for i in range(1, model.nbody)]
        names += [f"{body}_{part}" for body in bodies for part in parts]
    return tuple(names)
