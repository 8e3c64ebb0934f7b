"""Disturbance of the expert: bursts of noise, and random actions in its place.

The noise follows the idea of DART (Laskey et al. 2017): now and then the executed action is disturbed for a few steps.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from vla.config import Config
from vla.types import Spec


class NoiseConfig(Config):
    """Bursts of Gaussian noise on the executed actions, and of random actions in place of the expert's."""

    std: Annotated[float, Field(ge=0.0, le=2.0)] = 0.4
    """Standard deviation, in units of half an action dimension's range; 0 turns noise off."""
    probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Chance at each undisturbed step that a burst begins."""
    duration: Annotated[int, Field(ge=1)] = 5
    """Steps of a burst. All of them share one draw: noise that changes at each step would lead nowhere."""
    random_shares: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] = Field(
        default=(0.0,), min_length=1
    )
    """Share of the time, in bursts, in which a random action is executed in place of the expert's: every episode draws
    one of these, from 0 (the expert) to 1 (chance). For data of mixed quality; record what is executed."""
    spared: tuple[str, ...] = ("gripper",)
    """Action dimensions without noise, by name; an open gripper drops what the expert has picked up."""


class Noise:
    """Bursts: at each undisturbed step one may begin; through it, one Gaussian draw is added to the action, or one
    random action is executed in its place."""

    def __init__(self, config: NoiseConfig, spec: Spec, rng: np.random.Generator) -> None:
        self.config, self._rng = config, rng
        self._low, self._high = (
            np.asarray(spec.action_low, np.float32),
            np.asarray(spec.action_high, np.float32),
        )
        spared = np.array([name in config.spared for name in spec.action_names])
        self._spared, self._scale = (
            spared,
            np.where(spared, 0.0, config.std * (self._high - self._low) / 2),
        )
        self._left = self._until_draw = 0
        shares = config.random_shares
        self.random_share = shares[rng.integers(len(shares))] if len(shares) > 1 else shares[0]
        self._instead: np.ndarray | None = None
        self.noisy_steps = 0

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """The action to execute, inside the spec's bounds."""
        if self.random_share:
            if not self._until_draw:
                self._until_draw = self.config.duration
                drawn = self._rng.random() < self.random_share
                self._instead = (
                    self._rng.uniform(self._low, self._high).astype(np.float32) if drawn else None
                )
            self._until_draw -= 1
            if self._instead is not None:
                self.noisy_steps += 1
                executed = np.where(self._spared, action, self._instead)
                return np.clip(executed, self._low, self._high).astype(np.float32)
        if self.config.std and not self._left and self._rng.random() < self.config.probability:
            self._left = self.config.duration
            self._offset = self._rng.normal(size=action.shape) * self._scale
        if not self._left:
            return action
        self._left -= 1
        self.noisy_steps += 1
        return np.clip(action + self._offset, self._low, self._high).astype(np.float32)
