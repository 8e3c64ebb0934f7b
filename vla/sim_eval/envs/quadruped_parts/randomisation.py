"""What changes from episode to episode of the quadruped: pictures, robot and ground."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from vla.config import Config


class QuadrupedRandomisation(Config):
    """Domain randomisation, drawn for every episode.

    Strength 0 is off; 1 is what `scene_edits` calls strength 1. The robot's own properties are
    `Robot.set_world`'s.
    """

    light: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Direction, brightness and colour of the light."""
    camera: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Pose of the front camera."""
    texture: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Chance that the floor gets another surface."""
    colours: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Shades of everything; low strengths keep a colour's name true."""
    friction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Friction of the floor times a factor from 1 - 0.6 x this to 1 + 0.4 x this."""
    payload: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """Greatest weight on the back, kilograms."""
    motor: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Strength of the motors: a factor between 1 - this and 1 + this."""
    com: Annotated[float, Field(ge=0.0, le=0.1)] = 0.0
    """Greatest shift of the centre of mass forwards or backwards, metres."""

    def world_ranges(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value of each property that `Robot.set_world` takes."""
        return {
            "friction": (1 - 0.6 * self.friction, 1 + 0.4 * self.friction),
            "payload": (0.0, self.payload),
            "motor": (1 - self.motor, 1 + self.motor),
            "com": (-self.com, self.com),
        }

    @property
    def changes_world(self) -> bool:
        """Whether any of them differs from episode to episode."""
        return any(low < high for low, high in self.world_ranges().values())

    def draw_world(self, rng: np.random.Generator) -> dict[str, float]:
        """The properties that differ, of one episode."""
        # what is off draws nothing: the other numbers are those of a config without the key
        return {
            name: float(rng.uniform(low, high))
            for name, (low, high) in self.world_ranges().items()
            if low < high
        }


__all__ = ["QuadrupedRandomisation"]
