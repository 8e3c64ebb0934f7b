"""Perturbations of the scene: how it looks, and how its things weigh and slide.

What changes the looks leaves the physics alone to the bit, and the other way round.
"""

from __future__ import annotations

import importlib

from vla.common.registry import register
from vla.sim_eval.env import SimEnv
from vla.sim_eval.perturbations.base import Episode, Perturbation
from vla.sim_eval.perturbations.distractors import place_distractors


def seen_by(env: SimEnv) -> list[str]:
    """Cameras of the spec that the model holds under the same names; all of the model's
    if it holds none of them."""
    names = [str(env.model.camera(i).name) for i in range(env.model.ncam)]
    # an env that draws by itself may call its cameras differently
    return [name for name in names if name in env.robot_spec.cameras] or names


def _update_lights_and_cameras(env: SimEnv) -> None:
    """Computes where lights and cameras are now; nothing else of the present state changes."""
    # mj_camlight alone: mj_forward would also change the solver's warm start, and so the physics
    importlib.import_module("mujoco").mj_camlight(env.model, env.data)


@register("perturbations", "light")
class Light(Perturbation):
    """Brightness, tint and direction of all lights (`SceneEditor.light`)."""

    kind = "light"
    levels = (0.5, 1.0, 1.5)
    unit = "strength {}: at 1, brightness x e^(±0.5), tint ±12 % per channel, directions ±30°"
    needs = ("cameras", "model")

    def begin(self) -> None:
        self.editor.light(self.rng(), self.level)
        _update_lights_and_cameras(self.episode.env)


@register("perturbations", "camera")
class Camera(Perturbation):
    """Poses of the cameras (`SceneEditor.camera`)."""

    kind = "camera"
    levels = (0.5, 1.0, 2.0)
    unit = "strength {}: at 1, up to 5° about the point looked at, 2.5° of roll and 3 cm of shift"
    needs = ("cameras", "model")

    def begin(self) -> None:
        self.editor.camera(self.rng(), self.level, seen_by(self.episode.env))
        _update_lights_and_cameras(self.episode.env)


@register("perturbations", "colours")
class Colours(Perturbation):
    """Shades of every geom and material (`SceneEditor.colours`)."""

    kind = "colours"
    levels = (0.5, 1.0, 2.0)
    unit = "strength {}: at 1, hue ±18°, saturation and brightness x e^(±0.35), tint ±10 %"
    needs = ("cameras", "model")

    def begin(self) -> None:
        self.editor.colours(self.rng(), self.level)


@register("perturbations", "distractors")
class Distractors(Perturbation):
    """Things on the surfaces in view, with a radius of 2 to 3.5 per cent of their
    distance from the camera."""

    kind = "distractors"
    levels = (2, 4, 8)
    unit = "{} coloured things that are seen but cannot be touched"
    needs = ("cameras", "model", "renderer")

    @classmethod
    def obstacle(cls, episode: Episode) -> str:
        if episode.env.model.ncam:
            return ""
        return "the model has no camera that tells what is in view"

    def begin(self) -> None:
        env = self.episode.env
        assert env.renderer is not None
        things = place_distractors(env.model, env.data, seen_by(env), self.rng(), self.level)
        # added, not assigned: another perturbation around the same env may have put its own there
        env.renderer.extras = (*env.renderer.extras, *things)


@register("perturbations", "mass")
class Mass(Perturbation):
    """Mass and inertia of objects; of the robot if there is nothing else (`SceneEditor.mass`)."""

    kind = "mass"
    levels = (0.5, 1.0, 2.0)
    unit = "mass of every object x e^(±0.7 x {})"
    needs = ("model",)

    def begin(self) -> None:
        self.editor.mass(self.rng(), self.level)


@register("perturbations", "friction")
class Friction(Perturbation):
    """One factor for all friction coefficients (`SceneEditor.friction`)."""

    kind = "friction"
    levels = (0.5, 1.0, 2.0)
    unit = "friction of all contacts x e^(±0.7 x {})"
    needs = ("model",)

    def begin(self) -> None:
        self.editor.friction(self.rng(), self.level)
