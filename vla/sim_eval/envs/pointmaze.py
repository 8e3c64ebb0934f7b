"""PointMaze of gymnasium-robotics: a ball that is pushed through a maze to a
goal which is part of its state.

State: position and velocity, then the goal. The expert knows the maze: it follows the
shortest path over the grid. Version 3 of the envs; the goal stays where it is, and whoever
runs the env decides what success ends.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections import deque
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from vla.config import register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.mujoco.gymnasium_env import (
    FIELD_OF_VIEW,
    GymEnv,
    add_camera,
    gym_versions,
    import_robotics,
    listed_once,
    prepare_backend,
    unknown_task,
)
from vla.sim_eval.mujoco.spaces import square_camera
from vla.types import Spec

CAMERA = "top"
Cell = tuple[int, int]
Maze = Literal["umaze", "medium", "large", "open"]
MAPS: dict[Maze, tuple[str, int]] = {
    "umaze": ("U_MAZE", 300),
    "medium": ("MEDIUM_MAZE", 600),
    "large": ("LARGE_MAZE", 800),
    "open": ("OPEN", 300),
}
"""Name of the map in gymnasium-robotics, and its horizon there."""
TEXTS = (
    "Go to the red ball",
    "Roll the green ball to the red one",
    "Find the way through the maze to the red mark",
)
STATE_NAMES = ("x", "y", "x_velocity", "y_velocity", "goal_x", "goal_y")
GAIN, DAMPING = 4.0, 1.0  # of the expert: force per metre and per metre a second


@register("envs", "pointmaze")
class PointMazeConfig(EnvConfig):
    """A ball in mazes of gymnasium-robotics, with the goal in its state."""

    type: Literal["pointmaze"] = "pointmaze"
    tasks: tuple[Maze, ...] = ("umaze", "medium", "large")
    """Mazes by name: umaze, medium, large, open."""
    reward: Literal["sparse", "dense"] = "sparse"
    """`sparse`: 1 at the goal, else 0. `dense`: exp(-distance to the goal)."""
    image_size: Annotated[int, Field(ge=16, le=1024)] | None = None
    """Height and width in pixels of a camera above the maze; null: none, the
    ball has its state alone."""
    preset: Literal["fast", "full"] = "fast"
    """Rendering: `full` adds shadows, reflections and anti-aliasing."""
    horizon: Annotated[int, Field(ge=1)] | None = None
    """Control steps after which an episode is cut off; null: those of
    gymnasium-robotics, 300 to 800."""

    _listed_once = field_validator("tasks")(listed_once)

    def spec(self) -> Spec:
        cameras = square_camera(CAMERA, self.image_size)
        return Spec(
            cameras=cameras,
            state_names=STATE_NAMES,
            action_names=("force_x", "force_y"),
            action_low=(-1.0, -1.0),
            action_high=(1.0, 1.0),
            control_hz=100,
        )

    def suite(self) -> Suite:
        return Suite("pointmaze", tuple(self._task(name) for name in self.tasks))

    def _task(self, name: Maze) -> Task:
        _, usual_horizon = MAPS[name]
        first, *others = TEXTS
        return Task(name, "pointmaze", first, tuple(others), self.horizon or usual_horizon)

    def make(self, task: str) -> SimEnv:
        """Raises ConfigError if there is no such maze."""
        if task not in MAPS:
            raise unknown_task("pointmaze", task, MAPS)
        return PointMazeEnv(self, self._task(task))  # type: ignore[arg-type]

    def versions(self) -> dict[str, str]:
        return gym_versions(self.spec(), self.preset, "gymnasium-robotics") | {
            "env": "PointMaze-v3"
        }


class PointMazeEnv(GymEnv):
    """One maze; see `SimEnv` for what it observes and tells. It never terminates by itself."""

    def __init__(self, config: PointMazeConfig, task: Task) -> None:
        sim = _build(task.name, config.reward)  # type: ignore[arg-type]
        super().__init__(sim, config.spec(), task, camera=CAMERA, preset=config.preset)

    def observe_raw(self) -> Any:
        # the maze wraps the point's own env and adds the goals to its observation
        return self.sim._get_obs(self.sim.point_env._get_obs()[0])

    def outcome(
        self,
        info: dict[str, Any],
        *,
        terminated: bool,
    ) -> tuple[bool, str]:
        success = bool(info["success"])
        # a ball that is not there yet has never been there: one label is all there is to say
        return success, "" if success else "never reached"

    def expert_action(self) -> np.ndarray:
        """A spring to the end of the straight part of the path ahead, damped.

        Raises RuntimeError before `reset`.
        """
        if self.raw is None:
            raise RuntimeError("expert_action before reset: call reset first")
        observation = self.observe_raw()["observation"]
        position, velocity = observation[:2], observation[2:]
        # without damping the ball would swing about every corner
        force = GAIN * (self._waypoint(position) - position) - DAMPING * velocity
        return np.clip(force, self._low, self._high).astype(np.float32)

    def _waypoint(self, position: np.ndarray) -> np.ndarray:
        """Where the ball can roll to in a straight line, (x, y): the next corner
        of the path, or the goal."""
        maze, goal = self.sim.maze, np.asarray(self.sim.goal)
        start, end = self._cell(position), self._cell(goal)
        # tuples, since `path` is cached: an episode asks hundreds of times about a few cells
        walls = tuple(tuple(cell == 1 for cell in row) for row in maze.maze_map)
        ahead = path(walls, start, end)
        if len(ahead) < 2:
            return goal
        # what stays the same along the first part: the row or the column
        axis = 0 if ahead[1][0] == start[0] else 1
        straight = list(itertools.takewhile(lambda cell: cell[axis] == start[axis], ahead))
        corner = straight[-1]
        # the goal need not lie in the middle of its cell
        return goal if corner == end else np.asarray(maze.cell_rowcol_to_xy(corner))

    def _cell(self, position: np.ndarray) -> Cell:
        row, column = self.sim.maze.cell_xy_to_rowcol(position)
        return int(row), int(column)


@functools.lru_cache(maxsize=4096)
def path(
    walls: tuple[tuple[bool, ...], ...],
    start: Cell,
    end: Cell,
) -> tuple[Cell, ...]:
    """The cells (row, column) of a shortest way from `start` to `end`, both
    included; empty if there is none."""
    # breadth first from the end, so that the way can be read off forwards from the start
    following: dict[Cell, Cell] = {end: end}
    queue = deque([end])
    while queue and start not in following:
        row, column = queue.popleft()
        # of several shortest ways this order decides: demonstrations depend on it
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            i, j = row + down, column + right
            inside = 0 <= i < len(walls) and 0 <= j < len(walls[0])
            if inside and not walls[i][j] and (i, j) not in following:
                following[i, j] = (row, column)
                queue.append((i, j))
    if start not in following:
        return ()
    found = [start]
    while found[-1] != end:
        found.append(following[found[-1]])
    return tuple(found)


def _build(name: Maze, reward: str) -> Any:
    prepare_backend()
    map_name, _ = MAPS[name]
    maze_map = getattr(import_robotics("envs.maze.maps"), map_name)
    module = import_robotics("envs.maze.point_maze")
    sim = module.PointMazeEnv(maze_map=maze_map, reward_type=reward)
    # seen from a height at which the longer side of the maze and its walls fill the picture
    longer = max(len(maze_map), len(maze_map[0]))
    height = longer / 2 / math.tan(FIELD_OF_VIEW / 2) + 0.4
    position, straight_down = (0.0, 0.0, height), (1.0, 0.0, 0.0, 0.0)
    add_camera(sim.point_env, sim.tmp_xml_file_path, CAMERA, position, straight_down)
    os.unlink(sim.tmp_xml_file_path)  # nobody else would
    return sim
