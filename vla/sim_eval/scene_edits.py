"""Changes to a MuJoCo model between episodes: light, camera, colours, weights, friction. Exactly undone by `restore`.

A strength of 1 is a strong but plausible change; every method says what it means in units. All draws come from the
generator that is handed in.
"""

from __future__ import annotations

import colorsys
import importlib
from collections.abc import Collection
from typing import Any

import numpy as np

_FIELDS = (
    "light_pos",
    "light_dir",
    "light_diffuse",
    "light_ambient",
    "cam_pos",
    "cam_quat",
    "geom_rgba",
    "mat_rgba",
) + ("geom_matid", "geom_friction", "body_mass", "body_inertia")
_HEADLIGHT = ("ambient", "diffuse", "specular")


class SceneEditor:
    """Edits one `mujoco.MjModel` and knows what it was before.

    Args:
        model: its present values are what `restore` brings back.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before = {name: np.array(getattr(model, name)) for name in _FIELDS}
        self._headlight = {name: np.array(getattr(model.vis.headlight, name)) for name in _HEADLIGHT}

    def restore(self) -> None:
        """Puts back everything that an edit may have changed."""
        for name, values in self._before.items():
            getattr(self._model, name)[:] = values
        for name, values in self._headlight.items():
            getattr(self._model.vis.headlight, name)[:] = values
        self._set_constants()

    def light(self, rng: np.random.Generator, strength: float) -> None:
        """Brightness of each source times exp(+-0.5), a tint of +-0.2 per channel, directions turned by up to 30 degrees."""
        tint = 1 + strength * rng.uniform(-0.2, 0.2, 3)
        headlight = self._model.vis.headlight
        for values in (headlight.ambient, headlight.diffuse):
            values[:] = np.clip(values * tint * np.exp(strength * rng.uniform(-0.5, 0.5)), 0, 1)
        for i in range(self._model.nlight):
            factor = tint * np.exp(strength * rng.uniform(-0.5, 0.5))
            self._model.light_diffuse[i] = np.clip(self._model.light_diffuse[i] * factor, 0, 1)
            turned = _turn(rng, np.deg2rad(30.0) * strength) @ self._model.light_dir[i]
            self._model.light_dir[i] = turned / max(float(np.linalg.norm(turned)), 1e-9)

    def camera(
        self,
        rng: np.random.Generator,
        strength: float,
        names: Collection[str] | None = None,
        metres: float = 0.05,
        degrees: float = 4.0,
    ) -> None:
        """Moves cameras by up to `metres` along each axis and turns them by up to `degrees` about a random one.

        names: cameras to change; default: all.
        """
        mujoco = importlib.import_module("mujoco")
        for i in range(self._model.ncam):
            if names is not None and self._model.camera(i).name not in names:
                continue
            self._model.cam_pos[i] += strength * rng.uniform(-metres, metres, 3)
            axis = rng.normal(size=3)
            turn, turned = np.zeros(4), np.zeros(4)
            angle = strength * np.deg2rad(degrees) * rng.uniform(-1, 1)
            mujoco.mju_axisAngle2Quat(turn, axis / np.linalg.norm(axis), angle)
            mujoco.mju_mulQuat(turned, turn, self._model.cam_quat[i])
            self._model.cam_quat[i] = turned

    def colours(self, rng: np.random.Generator, strength: float, exclude: Collection[int] = ()) -> None:
        """Hue +-0.05 of the circle, saturation and brightness times exp(+-0.35), for every geom and material apart.

        At strength 1 a colour keeps its name. exclude: geoms (by id) that stay as they are.
        """
        for i in range(self._model.ngeom):
            if i not in exclude:
                self._model.geom_rgba[i, :3] = _shade(rng, strength, self._model.geom_rgba[i, :3])
        for i in range(self._model.nmat):
            self._model.mat_rgba[i, :3] = _shade(rng, strength, self._model.mat_rgba[i, :3])

    def mass(self, rng: np.random.Generator, strength: float, bodies: Collection[int] | None = None) -> None:
        """Mass and inertia of each body times exp(+-0.7), twice or half at strength 1.

        bodies: ids of those to change; default: the bodies that move freely, or all where none does.
        """
        chosen = self.free_bodies() if bodies is None else list(bodies)
        for i in chosen or range(1, self._model.nbody):
            factor = np.exp(strength * rng.uniform(-0.7, 0.7))
            self._model.body_mass[i] *= factor
            self._model.body_inertia[i] *= factor
        self._set_constants()

    def friction(self, rng: np.random.Generator, strength: float) -> None:
        """All friction coefficients of each geom times exp(+-0.5)."""
        for i in range(self._model.ngeom):
            self._model.geom_friction[i] *= np.exp(strength * rng.uniform(-0.5, 0.5))

    def free_bodies(self) -> list[int]:
        """Bodies with a free joint: the objects, not the robot."""
        mujoco = importlib.import_module("mujoco")
        free = self._model.jnt_type == mujoco.mjtJoint.mjJNT_FREE
        return [int(body) for body in self._model.jnt_bodyid[free]]

    def _set_constants(self) -> None:
        """MuJoCo derives body weights below a joint and the like from the masses."""
        before = self._before
        if np.array_equal(self._model.body_mass, before["body_mass"]) and not getattr(self, "_heavy", False):
            return
        mujoco = importlib.import_module("mujoco")
        mujoco.mj_setConst(self._model, mujoco.MjData(self._model))
        self._heavy = not np.array_equal(self._model.body_mass, before["body_mass"])


def _turn(rng: np.random.Generator, angle: float) -> np.ndarray:
    """A rotation (3, 3) by up to `angle` radians about a random axis (Rodrigues' formula)."""
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned = angle * rng.uniform(-1, 1)
    return np.asarray(np.eye(3) + np.sin(turned) * cross + (1 - np.cos(turned)) * cross @ cross)


def _shade(rng: np.random.Generator, strength: float, rgb: np.ndarray) -> np.ndarray:
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) for c in rgb))
    hue = (hue + strength * rng.uniform(-0.05, 0.05)) % 1.0
    saturation = min(1.0, saturation * np.exp(strength * rng.uniform(-0.35, 0.35)))
    value = min(1.0, value * np.exp(strength * rng.uniform(-0.35, 0.35)))
    return np.asarray(colorsys.hsv_to_rgb(hue, saturation, value))
