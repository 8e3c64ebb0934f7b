"""The collision shapes of LIBERO's things, as points: how wide they are, and how tall."""

from __future__ import annotations

import itertools

import numpy as np

from vla.sim_eval.envs.libero_parts.simulation import Simulation

COLLISION_GROUP = 0
_CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))


class Shape:
    """Of one object or fixture.

    Attributes:
        geoms: numbers of its collision shapes.
    """

    def __init__(self, simulation: Simulation, name: str) -> None:
        model = simulation.model
        root = model.body_rootid[simulation.body(name)]
        own = model.body_rootid[model.geom_bodyid] == root
        collides = own & (model.geom_group == COLLISION_GROUP)
        self._data = simulation.data
        self._indices = np.flatnonzero(collides)
        self.geoms = frozenset(self._indices.tolist())
        # the box around each shape in its own frame: for boxes, which almost all are, exact
        middles, halves = model.geom_aabb[self._indices, :3], model.geom_aabb[self._indices, 3:]
        self._corners = middles[:, None] + halves[:, None] * _CORNERS

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
