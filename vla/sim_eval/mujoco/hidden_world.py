"""Physics of an episode that a policy is not shown: friction, mass and motors, drawn by its seed.

The task family of adaptation (Kumar et al., 2021, "RMA"): `SimEnv.privileged` tells the drawn
factors to those that may know them.

D: factors that vary.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from vla.config import Config
from vla.sim_eval.mujoco.scene_edits import SceneEditor

Width = Annotated[float, Field(ge=0.0, le=1.5)]


class HiddenWorldConfig(Config):
    """How far each factor may go: it is exp(u), u uniform between - and + this width, so 0.7 is
    half to twice. 0 leaves it at 1."""

    friction: Width = 0.0
    """All friction of the scene."""
    mass: Width = 0.0
    """Mass and inertia of all bodies."""
    motor: Width = 0.0
    """What all actuators give for a command."""

    @model_validator(mode="after")
    def _hides_something(self) -> HiddenWorldConfig:
        if not (self.friction or self.mass or self.motor):
            raise ValueError("friction, mass, motor: all are 0; widen one, such as mass=0.7")
        return self


class HiddenWorld:
    """Draws and undoes it on one model.

    Attributes:
        names: of the factors that vary, in the order of `factors`.
        factors: of the present episode, float32 (D,).

    Args:
        model: the `mujoco.MjModel` of the env.
    """

    def __init__(self, model: Any, config: HiddenWorldConfig) -> None:
        self._model = model
        self._editor = SceneEditor(model)
        self._gear = np.array(model.actuator_gear)
        widths = {name: w for name, w in config.model_dump().items() if w}
        self.names = tuple(widths)
        self._widths_D = np.array(list(widths.values()))
        self.factors: Float[np.ndarray, " D"] = np.ones(len(self.names), np.float32)

    def draw(self, rng: np.random.Generator) -> None:
        """The world of a new episode, in the place of the last one's."""
        widths = self._widths_D
        self.apply(np.exp(rng.uniform(-1, 1, len(widths)) * widths).astype(np.float32))

    def apply(self, factors: Float[np.ndarray, " D"]) -> None:
        """A world of these factors, in the place of the present one."""
        self._editor.restore()
        self._model.actuator_gear[:] = self._gear
        self.factors = np.asarray(factors, np.float32)
        for name, factor in zip(self.names, self.factors.tolist(), strict=True):
            if name == "friction":
                self._model.geom_friction[:] *= factor
                self._model.pair_friction[:] *= factor
            elif name == "mass":
                self._editor.scale_masses(factor)
            else:
                self._model.actuator_gear[:] *= factor

    def bounds(self) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
        """Least and greatest factors that are drawn."""
        return np.exp(-self._widths_D), np.exp(self._widths_D)


__all__ = ["HiddenWorld", "HiddenWorldConfig"]
