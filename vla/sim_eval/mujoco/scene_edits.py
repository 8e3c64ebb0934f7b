"""Changes to a MuJoCo model between episodes: light, cameras, colours, surfaces, weights, friction. Exactly undone.

A strength of 1 is a strong but plausible change; every method says what it means in units. All draws come from the
generator that is handed in, and there are as many of them whatever the strength: the same generator state gives the
same change, greater or smaller. Data of the present state must be told afterwards: `mj_camlight` places lights and
cameras anew, the next `mj_step` takes weights and friction.
"""

from __future__ import annotations

import colorsys
import importlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np

from vla.sim_eval.rendering import VISIBLE_GROUPS

_EDITED = (
    *(
        "light_dir",
        "light_diffuse",
        "light_ambient",
        "cam_pos",
        "cam_quat",
        "geom_rgba",
        "mat_rgba",
        "geom_matid",
    ),
    *("geom_friction", "pair_friction", "body_mass", "body_inertia"),
)
# What `mj_setConst` derives from weights, and what else it derives: the latter must not change with them.
_OF_WEIGHTS = (
    "actuator_acc0",
    "body_invweight0",
    "body_subtreemass",
    "dof_M0",
    "dof_invweight0",
    "tendon_invweight0",
)
_OF_POSES = (
    *(
        "actuator_length0",
        "tendon_length0",
        "tendon_lengthspring",
        "cam_pos0",
        "cam_poscom0",
        "cam_mat0",
    ),
    *("light_pos0", "light_poscom0", "light_dir0"),
)
_STATISTICS = (
    "center",
    "extent",
    "meaninertia",
    "meanmass",
    "meansize",
)  # extent sets the near clipping plane
_HEADLIGHT = ("ambient", "diffuse")
_UNPAINTED = (
    0.5,
    0.5,
    0.5,
    1.0,
)  # a geom of this colour shows its material's; any other colour hides the material's


class SceneEditor:
    """Edits one `mujoco.MjModel` and knows what it was before.

    Args:
        model: its present values are what `restore` brings back, to the bit.
    """

    def __init__(self, model: Any) -> None:
        self._mujoco = importlib.import_module("mujoco")
        self._model = model
        self._before = {
            name: np.array(getattr(model, name)) for name in (*_EDITED, *_OF_WEIGHTS, *_OF_POSES)
        }
        self._statistics = {name: np.array(getattr(model.stat, name)) for name in _STATISTICS}
        self._headlight = {
            name: np.array(getattr(model.vis.headlight, name)) for name in _HEADLIGHT
        }
        self._distances: dict[int, float] = {}

    def restore(self) -> None:
        """Puts back everything that an edit may have changed."""
        self._put_back((*_EDITED, *_OF_WEIGHTS, *_OF_POSES), _STATISTICS)
        for name, values in self._headlight.items():
            getattr(self._model.vis.headlight, name)[:] = values

    def light(self, rng: np.random.Generator, strength: float) -> None:
        """Brightness of each source times exp(+-0.5), a tint of +-0.12 per channel, directions turned by up to 30 degrees."""
        tint = 1 + strength * rng.uniform(-0.12, 0.12, 3)
        headlight = self._model.vis.headlight
        for values in (headlight.ambient, headlight.diffuse):
            values[:] = np.clip(values * tint * np.exp(strength * rng.uniform(-0.5, 0.5)), 0, 1)
        for i in range(self._model.nlight):
            factor = tint * np.exp(strength * rng.uniform(-0.5, 0.5))
            for colour in (self._model.light_diffuse, self._model.light_ambient):
                colour[i] = np.clip(colour[i] * factor, 0, 1)
            axis, share = rng.normal(size=3), rng.uniform(-1, 1)
            self._model.light_dir[i] = (
                _turn(axis, np.deg2rad(30.0) * strength * share) @ self._model.light_dir[i]
            )

    def camera(
        self,
        rng: np.random.Generator,
        strength: float,
        names: Collection[str] | None = None,
        metres: float = 0.03,
        degrees: float = 5.0,
    ) -> None:
        """Moves cameras about the point that they look at.

        Each goes up to `degrees` round it to a side and up or down, rolls by up to half of that, and is shifted by up
        to `metres` along each axis. The point lies on the first surface ahead in the model's initial pose. A camera
        that rides on something that moves is turned on the spot and shifted by a third.

        names: cameras to change; default: all.
        """
        for i in self._cameras(names):
            rides = self._model.body_weldid[self._model.cam_bodyid[i]] != 0
            share, shift = (
                rng.uniform(-1, 1, 3),
                rng.uniform(-metres, metres, 3) / (3 if rides else 1),
            )
            angles = strength * np.deg2rad(degrees) * share * (1.0, 1.0, 0.5)
            axes = _rotation(self._model.cam_quat[i])  # columns: right, up, backwards
            turn = np.eye(3)
            for axis, angle in zip((axes[:, 1], axes[:, 0], axes[:, 2]), angles, strict=True):
                turn = _turn(axis, angle) @ turn
            arm = (0.0 if rides else self._distance(i)) * axes[:, 2]
            self._model.cam_pos[i] += turn @ arm - arm + strength * shift
            quaternion = np.zeros(4)
            self._mujoco.mju_mat2Quat(quaternion, (turn @ axes).ravel())
            self._model.cam_quat[i] = quaternion

    def colours(
        self, rng: np.random.Generator, strength: float, exclude: Collection[int] = ()
    ) -> None:
        """Hue +-0.05 of the circle, saturation and brightness times exp(+-0.35), a tint of +-0.1, for each colour and
        material apart: geoms that look alike stay alike.

        Up to strength 1 a colour keeps its name. exclude: geoms (by id) that stay as they are.
        """
        model, shades = self._model, dict[tuple[float, ...], np.ndarray]()
        for i in range(model.ngeom):
            colour = tuple(float(c) for c in model.geom_rgba[i])
            if colour[:3] not in shades:
                shades[colour[:3]] = _shade(rng, strength, colour[:3])
            shows_material = model.geom_matid[i] >= 0 and colour == _UNPAINTED
            if i not in exclude and not shows_material:
                model.geom_rgba[i, :3] = shades[colour[:3]]
        kept = {int(model.geom_matid[i]) for i in exclude}
        for i in range(model.nmat):
            shade = _shade(rng, strength, model.mat_rgba[i, :3])
            if i not in kept:
                model.mat_rgba[i, :3] = shade

    def texture(
        self, rng: np.random.Generator, strength: float, geoms: Collection[int] | None = None
    ) -> None:
        """Each surface gets another material of the model with probability `strength`.

        geoms: ids of those whose materials are exchanged; default: those with a material that stand still, such as
        floor and table. Geoms of one material stay alike. Nothing happens in a model of fewer than two materials.
        """
        model = self._model
        still = [i for i in range(model.ngeom) if model.body_weldid[model.geom_bodyid[i]] == 0]
        chosen = [i for i in (still if geoms is None else geoms) if model.geom_matid[i] >= 0]
        materials = {i: int(model.geom_matid[i]) for i in chosen}
        if model.nmat < 2:
            return
        for material in sorted(set(materials.values())):
            exchange, step = rng.random() < strength, int(rng.integers(1, model.nmat))
            if exchange:
                for i in chosen:
                    if materials[i] == material:
                        model.geom_matid[i] = (material + step) % model.nmat

    def mass(
        self, rng: np.random.Generator, strength: float, bodies: Collection[int] | None = None
    ) -> None:
        """Mass and inertia of each body times exp(+-0.7), which is twice or half at strength 1.

        bodies: ids of those to change; default: `objects()`, or all bodies where the model has a robot alone.
        """
        for i in (self.objects() or range(1, self._model.nbody)) if bodies is None else bodies:
            factor = np.exp(strength * rng.uniform(-0.7, 0.7))
            self._model.body_mass[i] *= factor
            self._model.body_inertia[i] *= factor
        self._mujoco.mj_setConst(self._model, self._mujoco.MjData(self._model))
        self._put_back(_OF_POSES, ("center", "extent", "meansize"))

    def friction(self, rng: np.random.Generator, strength: float) -> None:
        """All friction coefficients of the scene times one factor exp(+-0.7).

        One factor for all: a contact has the greater friction of its two geoms, so factors of their own would mostly
        make it rougher.
        """
        factor = np.exp(strength * rng.uniform(-0.7, 0.7))
        self._model.geom_friction[:] *= factor
        self._model.pair_friction[:] *= factor

    def objects(self) -> list[int]:
        """Bodies that move and do not belong to a robot, which is whatever hangs on a root with a driven joint."""
        model = self._model
        joint = np.isin(
            model.actuator_trntype, (int(self._mujoco.mjtTrn.mjTRN_JOINT), 1)
        )  # 1: joint in parent's frame
        driven = (
            model.jnt_bodyid[model.actuator_trnid[joint, 0]]
            if joint.any()
            else np.zeros(0, dtype=int)
        )
        robots = set(model.body_rootid[driven].tolist())
        return [
            i
            for i in range(1, model.nbody)
            if model.body_weldid[i] != 0 and int(model.body_rootid[i]) not in robots
        ]

    def _cameras(self, names: Collection[str] | None) -> Iterator[int]:
        for i in range(self._model.ncam):
            if names is None or self._model.camera(i).name in names:
                yield i

    def _distance(self, camera: int) -> float:
        """Metres from a camera to the first surface ahead; a floor at the horizon is no place to turn about."""
        if camera not in self._distances:
            model, data, found = (
                self._model,
                self._mujoco.MjData(self._model),
                np.full(1, -1, dtype=np.int32),
            )
            self._mujoco.mj_kinematics(model, data)
            self._mujoco.mj_comPos(model, data)
            self._mujoco.mj_camlight(model, data)
            ahead = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
            carrier = int(model.cam_bodyid[camera]) or -1
            distance = self._mujoco.mj_ray(
                model,
                data,
                data.cam_xpos[camera],
                ahead,
                np.array(VISIBLE_GROUPS, np.uint8),
                1,
                carrier,
                found,
            )
            extent = float(self._statistics["extent"])
            self._distances[camera] = min(distance, 3 * extent) if distance >= 0 else extent
        return self._distances[camera]

    def _put_back(self, fields: Collection[str], statistics: Collection[str]) -> None:
        for name in fields:
            getattr(self._model, name)[:] = self._before[name]
        for name in statistics:
            values = self._statistics[name]
            if values.ndim:
                getattr(self._model.stat, name)[:] = values
            else:
                setattr(self._model.stat, name, float(values))


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    """A rotation (3, 3) by `angle` radians about `axis` (Rodrigues' formula)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """(3, 3) from (w, x, y, z)."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _shade(rng: np.random.Generator, strength: float, rgb: Iterable[float]) -> np.ndarray:
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) for c in rgb))
    hue = (hue + strength * rng.uniform(-0.05, 0.05)) % 1.0
    saturation = min(1.0, saturation * np.exp(strength * rng.uniform(-0.35, 0.35)))
    value = min(1.0, value * np.exp(strength * rng.uniform(-0.35, 0.35)))
    tint = 1 + strength * rng.uniform(-0.1, 0.1, 3)
    return np.clip(np.asarray(colorsys.hsv_to_rgb(hue, saturation, value)) * tint, 0, 1)
