"""The collision shapes of LIBERO's things, as points and boxes: where they are and what is near."""

from __future__ import annotations

import itertools

import numpy as np

from vla.sim_eval.envs.libero_parts.simulation import Simulation

COLLISION_GROUP = 0
ROBOT = ("robot0", "gripper0", "mount0")
"""How the names of the robot's bodies begin."""
_CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))


class Shapes:
    """Collision shapes of a simulation.

    Attributes:
        geoms: their numbers.
    """

    def __init__(self, simulation: Simulation, indices: np.ndarray) -> None:
        model = simulation.model
        self._data = simulation.data
        self._indices = indices
        self.geoms = frozenset(indices.tolist())
        # the box around each shape in its own frame: for boxes, which almost all are, exact
        self._middles = model.geom_aabb[indices, :3]
        self._halves = model.geom_aabb[indices, 3:]
        self._corners = self._middles[:, None] + self._halves[:, None] * _CORNERS

    def points(self) -> np.ndarray:
        """(N, 8, 3) metres: the corners of its N shapes, where they are now."""
        rotations = self._data.geom_xmat[self._indices].reshape(-1, 3, 3)
        places = self._data.geom_xpos[self._indices]
        return np.asarray(self._corners @ rotations.transpose(0, 2, 1) + places[:, None])

    @property
    def top(self) -> float:
        """Metres above the world's origin."""
        return float(self.points()[..., 2].max())

    @property
    def bottom(self) -> float:
        """Metres above the world's origin."""
        return float(self.points()[..., 2].min())

    def reach(self, points: np.ndarray, margin: float) -> bool:
        """Whether one of the points (P, 3) lies in a shape, or less than `margin` metres beside
        it."""
        rotations = self._data.geom_xmat[self._indices].reshape(-1, 3, 3)
        places = self._data.geom_xpos[self._indices]
        # in each shape's own frame, where its box lies along the axes: (N, P, 3)
        local = (points - places[:, None]) @ rotations
        inside = np.abs(local - self._middles[:, None]) <= self._halves[:, None] + margin
        return bool(inside.all(axis=-1).any())


def shapes_of(simulation: Simulation, name: str) -> Shapes:
    """Those of one object or fixture."""
    model = simulation.model
    root = model.body_rootid[simulation.body(name)]
    own = model.body_rootid[model.geom_bodyid] == root
    return Shapes(simulation, np.flatnonzero(own & (model.geom_group == COLLISION_GROUP)))


def shapes_around(simulation: Simulation, name: str) -> Shapes:
    """Those of everything that may be in the way to an object: neither its own, nor the robot's,
    nor flat ground."""
    model = simulation.model
    root = model.body_rootid[simulation.body(name)]
    chosen = []
    for geom in range(model.ngeom):
        body = model.geom_bodyid[geom]
        moves = model.body_rootid[body] != 0
        of_robot = model.body(model.body_rootid[body]).name.startswith(ROBOT)
        collides = model.geom_group[geom] == COLLISION_GROUP
        if moves and collides and not of_robot and model.body_rootid[body] != root:
            chosen.append(geom)
    return Shapes(simulation, np.array(chosen, dtype=int))
