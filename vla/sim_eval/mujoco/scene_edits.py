"""Changes to a MuJoCo model between episodes: light, cameras, colours, surfaces,
weights, friction. Exactly undone.

A strength of 1 is a strong but plausible change; every method says what it means in units. All
draws come from the generator that is handed in, and there are as many of them whatever the
strength: the same generator state gives the same change, greater or smaller. The data of the
present state follow only later: `mj_camlight` computes where lights and cameras are, the next
`mj_step` takes weights and friction.
"""

from __future__ import annotations

import colorsys
import importlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np

from vla.sim_eval.rendering import VISIBLE_GROUPS

_EDITED = (
    "light_dir",
    "light_diffuse",
    "light_ambient",
    "cam_pos",
    "cam_quat",
    "geom_rgba",
    "mat_rgba",
    "geom_matid",
    "geom_friction",
    "pair_friction",
    "body_mass",
    "body_inertia",
)
# What `mj_setConst` derives from weights, and what else it derives: the latter
# must not change with them.
_OF_WEIGHTS = (
    "actuator_acc0",
    "body_invweight0",
    "body_subtreemass",
    "dof_M0",
    "dof_invweight0",
    "tendon_invweight0",
)
_OF_POSES = (
    "actuator_length0",
    "tendon_length0",
    "tendon_lengthspring",
    "cam_pos0",
    "cam_poscom0",
    "cam_mat0",
    "light_pos0",
    "light_poscom0",
    "light_dir0",
)
# `extent` sets the near clipping plane: a picture would change with the weights
_STATISTICS = ("center", "extent", "meaninertia", "meanmass", "meansize")
_HEADLIGHT = ("ambient", "diffuse")
# a geom of this colour, MuJoCo's default, shows its material's; any other
# colour hides the material's
_UNPAINTED = (0.5, 0.5, 0.5, 1.0)


class SceneEditor:
    """Edits one `mujoco.MjModel` and knows what it was before.

    Args:
        model: its present values are what `restore` brings back, to the bit.
    """

    def __init__(self, model: Any) -> None:
        self._mujoco = importlib.import_module("mujoco")
        self._model = model
        # copies of arrays, not a copy of the model: an MjModel that the renderer and the
        # env hold cannot be exchanged
        self._before = _copies(model, (*_EDITED, *_OF_WEIGHTS, *_OF_POSES))
        self._statistics = _copies(model.stat, _STATISTICS)
        self._headlight = _copies(model.vis.headlight, _HEADLIGHT)
        self._distances: dict[int, float] = {}

    def restore(self) -> None:
        """Puts back everything that an edit may have changed."""
        self._put_back((*_EDITED, *_OF_WEIGHTS, *_OF_POSES), _STATISTICS)
        for name, values in self._headlight.items():
            getattr(self._model.vis.headlight, name)[:] = values

    def light(self, rng: np.random.Generator, strength: float) -> None:
        """Brightness of each source times exp(+-0.5), a tint of +-0.12 per channel,
        directions turned by up to 30°."""
        model, headlight = self._model, self._model.vis.headlight
        # one tint for all sources: white balance, not a coloured shadow
        tint = 1 + strength * rng.uniform(-0.12, 0.12, 3)
        for values in (headlight.ambient, headlight.diffuse):
            brightness = np.exp(strength * rng.uniform(-0.5, 0.5))
            values[:] = np.clip(values * tint * brightness, 0, 1)
        for i in range(model.nlight):
            factor = tint * np.exp(strength * rng.uniform(-0.5, 0.5))
            for colour in (model.light_diffuse, model.light_ambient):
                colour[i] = np.clip(colour[i] * factor, 0, 1)
            # a normal vector points in every direction alike
            axis, share = rng.normal(size=3), rng.uniform(-1, 1)
            turn = _turn(axis, np.deg2rad(30.0) * strength * share)
            model.light_dir[i] = turn @ model.light_dir[i]

    def camera(
        self,
        rng: np.random.Generator,
        strength: float,
        names: Collection[str] | None = None,
        metres: float = 0.03,
        degrees: float = 5.0,
    ) -> None:
        """Moves cameras about the point that they look at.

        Each goes up to `degrees` round it to a side and up or down, rolls by up to half of that,
        and is shifted by up to `metres` along each axis. The point lies on the first surface ahead
        in the model's initial pose. A camera that rides on something that moves is turned on the
        spot and shifted by a third.

        names: cameras to change; default: all.
        """
        model = self._model
        for i in self._cameras(names):
            # body_weldid is 0 for what is fixed to the world
            rides = model.body_weldid[model.cam_bodyid[i]] != 0
            share = rng.uniform(-1, 1, 3)
            # a wrist camera is centimetres from what it sees
            shift = rng.uniform(-metres, metres, 3) / (3 if rides else 1)
            angles = strength * np.deg2rad(degrees) * share * (1.0, 1.0, 0.5)
            axes = _rotation(model.cam_quat[i])  # columns: right, up, backwards
            right, up, backwards = axes.T
            turn = np.eye(3)
            for axis, angle in zip((up, right, backwards), angles, strict=True):
                turn = _turn(axis, angle) @ turn
            # about the point looked at, or the scene would leave the picture: only
            # the view of it is to change
            arm = (0.0 if rides else self._distance(i)) * backwards
            model.cam_pos[i] += turn @ arm - arm + strength * shift
            quaternion = np.zeros(4)
            self._mujoco.mju_mat2Quat(quaternion, (turn @ axes).ravel())
            model.cam_quat[i] = quaternion

    def colours(
        self,
        rng: np.random.Generator,
        strength: float,
        exclude: Collection[int] = (),
    ) -> None:
        """Hue +-0.05 of the circle, saturation and brightness times exp(+-0.35), a tint of +-0.1,
        for each colour and material apart: geoms that look alike stay alike.

        Up to strength 1 a colour keeps its name. exclude: geoms (by id) that stay as they are.
        """
        model = self._model
        shades: dict[tuple[float, ...], np.ndarray] = {}
        for i in range(model.ngeom):
            rgba = tuple(float(c) for c in model.geom_rgba[i])
            rgb = rgba[:3]
            # drawn also for what stays as it is: the shades of the others
            # must not depend on `exclude`
            if rgb not in shades:
                shades[rgb] = _shade(rng, strength, rgb)
            shows_material = model.geom_matid[i] >= 0 and rgba == _UNPAINTED
            if i not in exclude and not shows_material:
                model.geom_rgba[i, :3] = shades[rgb]
        kept = {int(model.geom_matid[i]) for i in exclude}
        for i in range(model.nmat):
            shade = _shade(rng, strength, model.mat_rgba[i, :3])
            if i not in kept:
                model.mat_rgba[i, :3] = shade

    def texture(
        self,
        rng: np.random.Generator,
        strength: float,
        geoms: Collection[int] | None = None,
    ) -> None:
        """Each surface gets another material of the model with probability `strength`.

        geoms: ids of those whose materials are exchanged; default: those with a material that stand
        still, such as floor and table. Geoms of one material stay alike. Nothing happens in a model
        of fewer than two materials.
        """
        model = self._model
        if geoms is None:
            geoms = np.flatnonzero(model.body_weldid[model.geom_bodyid] == 0).tolist()
        chosen = [i for i in geoms if model.geom_matid[i] >= 0]
        materials = {i: int(model.geom_matid[i]) for i in chosen}
        if model.nmat < 2:
            return
        for material in sorted(set(materials.values())):
            exchange = rng.random() < strength
            # 1 to nmat - 1 further on, modulo nmat: never the same one
            step = int(rng.integers(1, model.nmat))
            alike = [i for i in chosen if materials[i] == material]
            if exchange:
                model.geom_matid[alike] = (material + step) % model.nmat

    def mass(
        self,
        rng: np.random.Generator,
        strength: float,
        bodies: Collection[int] | None = None,
    ) -> None:
        """Mass and inertia of each body times exp(+-0.7), which is twice or half at strength 1.

        bodies: ids of those to change; default: `objects()`, or all bodies if
        the model has a robot alone.
        """
        if bodies is None:
            bodies = self.objects() or range(1, self._model.nbody)
        for i in bodies:
            # both by one factor: the same shape of another density
            factor = np.exp(strength * rng.uniform(-0.7, 0.7))
            self._model.body_mass[i] *= factor
            self._model.body_inertia[i] *= factor
        self._weights_have_changed()

    def scale_masses(self, factor: float) -> None:
        """Mass and inertia of all bodies times one factor."""
        self._model.body_mass[:] *= factor
        self._model.body_inertia[:] *= factor
        self._weights_have_changed()

    def _weights_have_changed(self) -> None:
        # what MuJoCo derives from weights once when it compiles; data of its own, since it
        # leaves them in the initial pose
        self._mujoco.mj_setConst(self._model, self._mujoco.MjData(self._model))
        # what else it derives belongs to poses: it must stay what the
        # compiler made of it, to the bit
        self._put_back(_OF_POSES, ("center", "extent", "meansize"))

    def friction(self, rng: np.random.Generator, strength: float) -> None:
        """All friction coefficients of the scene times one factor exp(+-0.7).

        One factor for all: a contact has the greater friction of its two geoms, so factors of their
        own would mostly make it rougher.
        """
        factor = np.exp(strength * rng.uniform(-0.7, 0.7))
        self._model.geom_friction[:] *= factor
        self._model.pair_friction[:] *= factor

    def objects(self) -> list[int]:
        """Bodies that move and do not belong to a robot, which is whatever hangs on a
        root with a driven joint."""
        model, transmission = self._model, self._mujoco.mjtTrn
        on_joints = (int(transmission.mjTRN_JOINT), int(transmission.mjTRN_JOINTINPARENT))
        by_joint = np.isin(model.actuator_trntype, on_joints)
        # actuator_trnid counts joints only for these actuators; for others it is a tendon or a site
        joints = model.actuator_trnid[by_joint, 0]
        robots = set(model.body_rootid[model.jnt_bodyid[joints]].tolist())
        found = []
        for i in range(1, model.nbody):  # body 0 is the world
            moves = model.body_weldid[i] != 0
            if moves and int(model.body_rootid[i]) not in robots:
                found.append(i)
        return found

    def _cameras(self, names: Collection[str] | None) -> Iterator[int]:
        for i in range(self._model.ncam):
            if names is None or self._model.camera(i).name in names:
                yield i

    def _distance(self, camera: int) -> float:
        """Metres from a camera to the first surface ahead; a floor at the horizon
        is no place to turn about."""
        if camera not in self._distances:
            model, mujoco = self._model, self._mujoco
            # in the model's initial pose, whatever the episode's state: the
            # same edit in every episode
            data = mujoco.MjData(model)
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_camlight(model, data)
            ahead = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
            # the ray must not hit what holds the camera; -1 leaves out no body
            carrier = int(model.cam_bodyid[camera]) or -1
            groups = np.array(VISIBLE_GROUPS, np.uint8)
            hit = np.full(1, -1, dtype=np.int32)
            start = data.cam_xpos[camera]
            distance = mujoco.mj_ray(model, data, start, ahead, groups, 1, carrier, hit)
            extent = float(self._statistics["extent"])
            self._distances[camera] = min(distance, 3 * extent) if distance >= 0 else extent
        return self._distances[camera]

    def _put_back(self, fields: Collection[str], statistics: Collection[str]) -> None:
        for name in fields:
            getattr(self._model, name)[:] = self._before[name]
        for name in statistics:
            values = self._statistics[name]
            # numbers are attributes that MuJoCo copies, arrays are views into the model
            if values.ndim:
                getattr(self._model.stat, name)[:] = values
            else:
                setattr(self._model.stat, name, float(values))


def _copies(
    holder: Any,
    names: Iterable[str],
) -> dict[str, np.ndarray]:
    """Copies of the arrays and numbers of these names."""
    return {name: np.array(getattr(holder, name)) for name in names}


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    """A rotation (3, 3) by `angle` radians about `axis` (Rodrigues' formula)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    squared = (1 - np.cos(angle)) * cross @ cross
    return np.asarray(np.eye(3) + np.sin(angle) * cross + squared)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """(3, 3) from (w, x, y, z), which need not be normalised."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _shade(
    rng: np.random.Generator,
    strength: float,
    rgb: Iterable[float],
) -> np.ndarray:
    """Another shade of a colour, (3,), 0 to 1; see `SceneEditor.colours`."""
    # in HSV, where a small change of hue keeps the colour's name
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) for c in rgb))
    hue = (hue + strength * rng.uniform(-0.05, 0.05)) % 1.0
    richer = np.exp(strength * rng.uniform(-0.35, 0.35))
    saturation = min(1.0, saturation * richer)
    brighter = np.exp(strength * rng.uniform(-0.35, 0.35))
    value = min(1.0, value * brighter)
    tint = 1 + strength * rng.uniform(-0.1, 0.1, 3)
    shade = np.asarray(colorsys.hsv_to_rgb(hue, saturation, value))
    return np.clip(shade * tint, 0, 1)
