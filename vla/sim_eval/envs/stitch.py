"""A maze for offline RL in which nobody has gone the whole way: two bad halves make a good path.

    y=4  # > > x        S: start of every evaluation      G: goal
    y=3  # ^ # #        >: most recordings from S: up, into the dead end x
    y=2  S J # G        v: few of them: down, then back to E, another dead end
    y=1  # v # ^        Others begin in E and end in G. None begins in S and ends in G.
    y=0  E . > >

Whoever imitates goes up at J, and so does whoever weighs recordings by what they brought: from S
none brought anything. To turn down at J, a policy has to know that where some of these recordings
pass by, others have come from E to G.

MuJoCo moves the ball; damping makes force into speed within a step, so that the
position is the whole state.
"""

from __future__ import annotations

import importlib
import xml.etree.ElementTree as ET
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from vla.config import register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.mujoco.gymnasium_env import GymEnv, gym_versions, prepare_backend, unknown_task
from vla.types import Spec

CAMERA = "top"
MAP = ("#...", "#.##", "..#.", "#.#.", "....")
"""Cells of one metre from the top row (y = 4) down; # is wall."""
START, GOAL = (0, 2), (3, 2)
GOAL_RADIUS = 0.4  # metres
NEAR = 0.25  # metres from a corner, along either axis, at which it counts as passed
JITTER = (0.25, 0.1)
"""Episodes begin this far from the middle of their cell at most, in x and y (metres)."""
SUBSTEPS, TIMESTEP = 10, 0.01
Half = Literal["up", "back", "in"]
HALVES: dict[Half, tuple[tuple[int, int], ...]] = {
    "up": (START, (1, 2), (1, 4), (3, 4)),
    "back": (START, (1, 2), (1, 0), (0, 0)),
    "in": ((0, 0), (3, 0), GOAL),
}
"""Corners of the ways that recordings take: cells (x, y)."""
# Most recordings from the start go up: imitation must find the wrong turn the likelier one.
SHARES: dict[Half, float] = {"up": 0.55, "back": 0.15, "in": 0.3}
WHOLE: tuple[tuple[int, int], ...] = (START, (1, 2), (1, 0), (3, 0), GOAL)
TEXTS = ("Go to the green mark", "Roll to the green field")


@register("envs", "stitch")
class StitchConfig(EnvConfig):
    """A ball in a maze, of which only halves of the way to the goal are recorded.

    State: its position.
    """

    type: Literal["stitch"] = "stitch"
    play: Literal["whole", "halves"] = "whole"
    """`whole`: every episode begins at the start, and the expert knows the way to the goal.
    `halves`: the expert goes one of three ways, drawn by the episode's seed, none of which leads
    from the start to the goal."""
    horizon: Annotated[int, Field(ge=1)] = 50
    """Control steps after which an episode is cut off."""

    def spec(self) -> Spec:
        return Spec(
            cameras={},
            state_names=("x", "y"),
            action_names=("force_x", "force_y"),
            action_low=(-1.0, -1.0),
            action_high=(1.0, 1.0),
            control_hz=10,
        )

    def suite(self) -> Suite:
        return Suite("stitch", (self._task(),))

    def _task(self) -> Task:
        first, *others = TEXTS
        return Task("stitch", "stitch", first, tuple(others), self.horizon)

    def make(self, task: str) -> SimEnv:
        """Raises ConfigError if the task is not `stitch`."""
        if task != "stitch":
            raise unknown_task("stitch", task, ["stitch"])
        return StitchEnv(self, self._task())

    def versions(self) -> dict[str, str]:
        return gym_versions(self.spec(), "fast")


class Maze:
    """The simulation: one ball between boxes, seen from above.

    Its state is a position in metres, (x, y).
    """

    def __init__(self) -> None:
        prepare_backend()
        self._mujoco = importlib.import_module("mujoco")
        self.model = self._mujoco.MjModel.from_xml_string(_scene())
        self.data = self._mujoco.MjData(self.model)

    def place(self, x: float, y: float) -> None:
        """A new episode with the ball at rest there."""
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = x, y
        self._mujoco.mj_forward(self.model, self.data)

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """The ball near the start; the same seed gives the same place."""
        # less jitter in y than in x: all come to the fork J in its middle, so that nothing
        # but the policy decides there
        rng = np.random.default_rng(seed)
        offset = rng.uniform(-1, 1, 2) * JITTER
        self.place(*(np.asarray(START) + offset))
        return self._get_obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The reward is 1 in the goal, else 0."""
        self.data.ctrl[:] = action
        self._mujoco.mj_step(self.model, self.data, SUBSTEPS)
        return self._get_obs(), float(self.at_goal), False, False, {}

    @property
    def at_goal(self) -> bool:
        """Whether the ball is within `GOAL_RADIUS` of the goal."""
        away = self.data.qpos - np.asarray(GOAL)
        return bool(np.hypot(*away) < GOAL_RADIUS)

    def _get_obs(self) -> np.ndarray:
        return np.array(self.data.qpos)

    def close(self) -> None:
        """There is nothing to give back."""


class StitchEnv(GymEnv):
    """See the module's docstring, and `SimEnv` for what it observes and tells."""

    def __init__(self, config: StitchConfig, task: Task) -> None:
        super().__init__(Maze(), config.spec(), task, camera=CAMERA)
        # it ticks off the corners that it has passed, and knows no way from elsewhere
        self.expert_has_memory = True
        self._halves = config.play == "halves"
        self._rng = np.random.default_rng(0)
        self._way: list[np.ndarray] = []

    def on_reset(self, seed: int, info: dict[str, Any]) -> None:
        # 5: collection draws from (seed, 1) to (seed, 4), and the start from seed alone
        self._rng = np.random.default_rng((seed, 5))
        way = WHOLE
        if self._halves:
            halves, shares = list(SHARES), list(SHARES.values())
            half = self._rng.choice(halves, p=shares)
            self.expert_name, way = str(half), HALVES[half]
            offset = self._rng.uniform(-1, 1, 2) * JITTER
            self.sim.place(*(np.asarray(way[0]) + offset))
            self.raw = self.observe_raw()  # the reset's is of the place before
        # without the cell in which it begins
        self._way = [np.asarray(cell, dtype=np.float64) for cell in way[1:]]

    def outcome(
        self,
        info: dict[str, Any],
        *,
        terminated: bool,
    ) -> tuple[bool, str]:
        return self.sim.at_goal, "" if self.sim.at_goal else "never reached"

    def expert_action(self) -> np.ndarray:
        """Straight to the next corner; about the last cell once there.

        Raises RuntimeError before `reset`.
        """
        if self.raw is None:
            raise RuntimeError("expert_action before reset: call reset first")
        position = self.observe_raw()
        if np.abs(self._way[0] - position).max() < NEAR:
            if len(self._way) > 1:
                self._way.pop(0)
            else:
                # it goes on moving about the last cell: at rest one state and one
                # action would fill the recording
                middle = np.round(position)
                self._way = [middle + self._rng.uniform(-0.3, 0.3, 2)]
        ahead = self._way[0] - position
        # full speed until 0.4 m are left, the way of one step, then slower: it does not overshoot
        farthest = float(np.abs(ahead).max())
        return (ahead / max(0.4, farthest)).astype(np.float32)


def _scene() -> str:
    """MJCF: walls of the map and around it. Metres, seconds, kilograms."""
    root = ET.Element("mujoco", model="stitch")
    _add(root, "option", timestep=str(TIMESTEP), gravity="0 0 0")
    # condim 1 is without friction: the ball slides along walls instead of sticking to them
    default = _add(root, "default")
    _add(default, "geom", condim="1", rgba="0.45 0.5 0.6 1")
    world = _add(root, "worldbody")
    _add(world, "light", pos="1.5 2 6", dir="0 0 -1", directional="true")
    _add(world, "camera", name=CAMERA, pos="1.5 2 9.5")
    # floor and mark are seen and touch nothing: gravity is off, and the
    # ball rolls in the plane z = 0
    untouched = {"contype": "0", "conaffinity": "0"}
    floor = {"size": "4 4 0.1", "pos": "1.5 2 -0.2", "rgba": "0.9 0.9 0.92 1"}
    _add(world, "geom", type="plane", **floor, **untouched)
    mark = {
        "size": f"{GOAL_RADIUS} 0.01",
        "pos": f"{GOAL[0]} {GOAL[1]} -0.18",
        "rgba": "0.2 0.7 0.35 1",
    }
    _add(world, "geom", type="cylinder", **mark, **untouched)
    for x, y in wall_cells():
        _add(world, "geom", type="box", size="0.5 0.5 0.2", pos=f"{x} {y} 0")
    ball = _add(world, "body", name="ball")
    for name, axis in (("x", "1 0 0"), ("y", "0 1 0")):
        _add(ball, "joint", name=name, type="slide", axis=axis, damping="1")
    _add(ball, "geom", type="sphere", size="0.15", mass="0.03", rgba="0.85 0.3 0.2 1")
    actuators = _add(root, "actuator")
    # 4 N against a damping of 1 N s/m: 4 m/s, with a time constant of 0.03 s (0.03 kg), so that the
    # speed need not be part of the state
    motor = {"gear": "4", "ctrllimited": "true", "ctrlrange": "-1 1"}
    for name in ("x", "y"):
        _add(actuators, "motor", joint=name, **motor)
    return ET.tostring(root, encoding="unicode")


def _add(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, tag, attributes)


def wall_cells() -> list[tuple[int, int]]:
    """Centres (x, y) of the cells that are wall, those around the map among them."""
    height, width = len(MAP), len(MAP[0])
    walls = []
    # one cell further on each side: the border, which the map does not draw
    for x in range(-1, width + 1):
        for y in range(-1, height + 1):
            inside = 0 <= x < width and 0 <= y < height
            # MAP's first row is the highest y
            if not inside or MAP[height - 1 - y][x] == "#":
                walls.append((x, y))
    return walls


__all__ = [
    "GOAL",
    "GOAL_RADIUS",
    "HALVES",
    "MAP",
    "START",
    "Maze",
    "StitchConfig",
    "StitchEnv",
    "wall_cells",
]
