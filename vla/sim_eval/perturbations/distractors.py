"""Finds room for distractor objects in any MuJoCo scene: on flat ground that a camera
sees, clear of everything."""

from __future__ import annotations

import colorsys
import importlib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from vla.sim_eval.rendering import VISIBLE_GROUPS, GeomShape, VisualGeom

ATTEMPTS = 60  # rays for each thing
RADII = (0.02, 0.035)  # of the distance from the camera
_SHAPES: tuple[GeomShape, ...] = get_args(GeomShape)


def place_distractors(
    model: Any,
    data: Any,
    cameras: Sequence[str],
    rng: np.random.Generator,
    number: int,
) -> list[VisualGeom]:
    """At most `number` things, each resting on flat ground in view with a free ring
    of twice its radius around it.

    A greater number begins with the things of a smaller one. Fewer come if
    the scene has no room for more.

    Args:
        model, data: mujoco.MjModel, and the MjData of the state in which they are placed.
        cameras: names; things are placed in view of the first that stands still, else of the first.
    """
    ground = _Ground(model, data)
    camera = _viewpoint(model, cameras)
    found: list[VisualGeom] = []
    for _number in range(number):
        # a generator for each thing: its place must not depend on how many rays the others needed
        own = np.random.default_rng(rng.integers(2**63, size=2))
        for _ in range(ATTEMPTS):
            # 0.85 of the way to the edge: a thing cut off by the border is hardly seen
            hit = ground.seen(camera, own.uniform(-0.85, 0.85, 2))
            # drawn before the ray is looked at, so that every attempt takes the same numbers
            radius = own.uniform(*RADII)
            if hit is None:
                continue
            point, distance = hit
            radius *= distance
            if _is_apart(point, radius, found) and ground.flat(point, radius):
                found.append(_thing(own, point, radius))
                break
    return found


def _is_apart(
    point: np.ndarray,
    radius: float,
    others: Sequence[VisualGeom],
) -> bool:
    """Whether no other thing's middle is within three radii of `point`, seen from above."""
    middles = [np.array(other.position[:2]) for other in others]
    return all(np.linalg.norm(point[:2] - middle) > 3 * radius for middle in middles)


def _viewpoint(model: Any, cameras: Sequence[str]) -> int:
    numbers = [int(model.camera(name).id) for name in cameras]
    # body_weldid is 0 where nothing can move the body; a wrist camera sees
    # other ground at every step
    still = [i for i in numbers if model.body_weldid[model.cam_bodyid[i]] == 0]
    return (still or numbers)[0]


class _Ground:
    """What rays meet in the present state."""

    def __init__(self, model: Any, data: Any) -> None:
        self._mujoco = importlib.import_module("mujoco")
        self._model, self._data = model, data
        self._groups = np.array(VISIBLE_GROUPS, dtype=np.uint8)

    def seen(
        self,
        camera: int,
        place: np.ndarray,
    ) -> tuple[np.ndarray, float] | None:
        """Point (3,) and distance of what stands still at a place of the picture
        (-1 to 1 from edge to edge)."""
        half = np.tan(np.deg2rad(self._model.cam_fovy[camera]) / 2)
        # columns: right, up, backwards; so the camera looks along -z of its own frame
        axes = self._data.cam_xmat[camera].reshape(3, 3)
        right, up = place
        ahead = axes @ np.array([right * half, up * half, -1.0])
        ahead /= np.linalg.norm(ahead)
        start = np.array(self._data.cam_xpos[camera])
        distance, geom = self._ray(start, ahead)
        if geom < 0:
            return None
        # what moves, or is moved by mocap between episodes, would leave the thing in the air
        body = int(self._model.geom_bodyid[geom])
        if self._model.body_weldid[body] != 0 or self._model.body_mocapid[body] >= 0:
            return None
        return start + distance * ahead, distance

    def flat(self, point: np.ndarray, radius: float) -> bool:
        """Whether nothing rises or falls by more than a tenth of `radius` within twice the
        radius."""
        down, above = np.array([0.0, 0.0, -1.0]), 4 * radius
        for share in (0.0, 1.0, 2.0):
            # one ray at the middle, eight on each ring
            around = np.linspace(0, 2 * np.pi, 8, endpoint=False)
            for angle in around if share else around[:1]:
                direction = np.array([np.cos(angle), np.sin(angle), 0.0])
                offset = share * radius * direction
                start = point + offset + np.array([0.0, 0.0, above])
                distance, geom = self._ray(start, down)
                if geom < 0 or abs(distance - above) > 0.1 * radius:
                    return False
        return True

    def _ray(
        self,
        start: np.ndarray,
        ahead: np.ndarray,
    ) -> tuple[float, int]:
        """Distance and geom of the first hit; -1 for both if there is none."""
        geom = np.full(1, -1, dtype=np.int32)
        # 1: static geoms count too; -1: no body is left out
        distance = self._mujoco.mj_ray(
            self._model, self._data, start, ahead, self._groups, 1, -1, geom
        )
        return float(distance), int(geom[0])


def _thing(
    rng: np.random.Generator,
    point: np.ndarray,
    radius: float,
) -> VisualGeom:
    """A thing that rests on `point`. The order of the draws is part of the results."""
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    length = radius * rng.uniform(0.6, 1.4)
    # half of a capsule's length is without its caps
    half_height = {"sphere": radius, "capsule": radius + length}.get(shape, length)
    angle = rng.uniform(0, np.pi)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    hue = rng.uniform()
    saturation, value = rng.uniform(0.6, 1.0), rng.uniform(0.5, 1.0)
    colour = colorsys.hsv_to_rgb(hue, saturation, value)
    x, y, z = (float(v) for v in point)
    return VisualGeom(
        shape=shape,
        size=(float(radius), float(radius), float(radius if shape == "sphere" else length)),
        position=(x, y, z + float(half_height)),
        rgba=(*colour, 1.0),
        rotation=(cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0),
    )
