"""Finds room for distractor objects in any MuJoCo scene: on flat ground that a camera sees, clear of everything."""

from __future__ import annotations

import colorsys
import importlib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from vla.sim_eval.rendering import VISIBLE_GROUPS, VisualGeom

ATTEMPTS = 60  # rays for each thing
RADII = (0.02, 0.035)  # of the distance from the camera
_SHAPES = get_args(VisualGeom.__annotations__["shape"]) or (
    "sphere",
    "capsule",
    "ellipsoid",
    "cylinder",
    "box",
)


def place_distractors(
    model: Any, data: Any, cameras: Sequence[str], rng: np.random.Generator, number: int
) -> list[VisualGeom]:
    """At most `number` things, each resting on flat ground in view with a free ring of twice its radius around it.

    A greater number begins with the things of a smaller one. Fewer come where the scene has no room for more.

    Args:
        model, data: mujoco.MjModel, and the MjData of the state in which they are placed.
        cameras: names; things are placed in view of the first that stands still, else of the first.
    """
    ground = _Ground(model, data)
    camera = _viewpoint(model, cameras)
    found: list[VisualGeom] = []
    for _number in range(number):
        own = np.random.default_rng(
            rng.integers(2**63, size=2)
        )  # however many rays the others have taken
        for _ in range(ATTEMPTS):
            hit = ground.seen(camera, own.uniform(-0.85, 0.85, 2))
            radius = own.uniform(*RADII)
            if hit is None:
                continue
            point, distance = hit
            radius *= distance
            apart = all(
                np.linalg.norm(point[:2] - np.array(f.position[:2])) > 3 * radius for f in found
            )
            if apart and ground.flat(point, radius):
                found.append(_thing(own, point, radius))
                break
    return found


def _viewpoint(model: Any, cameras: Sequence[str]) -> int:
    numbers = [int(model.camera(name).id) for name in cameras]
    still = [i for i in numbers if model.body_weldid[model.cam_bodyid[i]] == 0]
    return (still or numbers)[0]


class _Ground:
    """What rays meet in the present state."""

    def __init__(self, model: Any, data: Any) -> None:
        self._mujoco = importlib.import_module("mujoco")
        self._model, self._data = model, data
        self._groups = np.array(VISIBLE_GROUPS, dtype=np.uint8)

    def seen(self, camera: int, place: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Point (3,) and distance of what stands still at a place of the picture (-1 to 1 from edge to edge)."""
        half = np.tan(np.deg2rad(self._model.cam_fovy[camera]) / 2)
        axes = self._data.cam_xmat[camera].reshape(3, 3)
        ahead = axes @ np.array([place[0] * half, place[1] * half, -1.0])
        ahead /= np.linalg.norm(ahead)
        start = np.array(self._data.cam_xpos[camera])
        distance, geom = self._ray(start, ahead)
        if geom < 0:
            return None
        body = int(self._model.geom_bodyid[geom])
        if self._model.body_weldid[body] != 0 or self._model.body_mocapid[body] >= 0:
            return None
        return start + distance * ahead, distance

    def flat(self, point: np.ndarray, radius: float) -> bool:
        """Whether nothing rises or falls by more than a tenth of `radius` within twice the radius."""
        down, above = np.array([0.0, 0.0, -1.0]), 4 * radius
        for share in (0.0, 1.0, 2.0):
            for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False)[: 8 if share else 1]:
                offset = share * radius * np.array([np.cos(angle), np.sin(angle), 0.0])
                distance, geom = self._ray(point + offset + np.array([0.0, 0.0, above]), down)
                if geom < 0 or abs(distance - above) > 0.1 * radius:
                    return False
        return True

    def _ray(self, start: np.ndarray, ahead: np.ndarray) -> tuple[float, int]:
        geom = np.full(1, -1, dtype=np.int32)
        distance = self._mujoco.mj_ray(
            self._model, self._data, start, ahead, self._groups, 1, -1, geom
        )
        return float(distance), int(geom[0])


def _thing(rng: np.random.Generator, point: np.ndarray, radius: float) -> VisualGeom:
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    length = radius * rng.uniform(0.6, 1.4)
    half_height = {"sphere": radius, "capsule": radius + length}.get(shape, length)
    size = (radius, radius, radius if shape == "sphere" else length)
    cos, sin = np.cos(angle := rng.uniform(0, np.pi)), np.sin(angle)
    colour = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.6, 1.0), rng.uniform(0.5, 1.0))
    x, y, z = (float(v) for v in point)
    return VisualGeom(
        shape=shape,
        size=(float(size[0]), float(size[1]), float(size[2])),
        position=(x, y, z + float(half_height)),
        rgba=(*colour, 1.0),
        rotation=tuple(float(v) for v in (cos, -sin, 0, sin, cos, 0, 0, 0, 1)),
    )
