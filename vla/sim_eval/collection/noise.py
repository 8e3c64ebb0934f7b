"""Disturbance of the expert: bursts of noise, and random actions in its place.

The noise follows the idea of DART (Laskey et al. 2017): now and then the executed action is
disturbed for a few steps.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from vla.config import Config, ConfigError
from vla.types import Spec

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class NoiseConfig(Config):
    """Bursts of Gaussian noise on the expert's actions, and of random actions in their place."""

    std: float = Field(default=0.4, ge=0.0, le=2.0)
    """Standard deviation, in units of half an action dimension's range; 0 turns noise off."""
    probability: Share = 0.05
    """Chance at each undisturbed step that a burst begins."""
    duration: int = Field(default=5, ge=1)
    """Steps of a burst. They share one draw: noise that changes at each step leads nowhere."""
    random_shares: tuple[Share, ...] = Field(default=(0.0,), min_length=1)
    """Share of the time, in bursts, in which a random action is executed in place of the expert's:
    every episode draws one of these, from 0 (the expert) to 1 (chance). For data of mixed quality;
    record what is executed."""
    spared: tuple[str, ...] = ("gripper",)
    """Action dimensions without noise, by name; an open gripper drops what the expert has picked
    up. Dimensions that the spec calls binary are always without."""
    scales: dict[str, Annotated[float, Field(ge=0.0, le=100.0)]] = Field(default_factory=dict)
    """Factor on `std` of single action dimensions, by name; 1 where none is given. Of a command
    that holds for a whole episode, such as a height, a burst should be smaller than of a speed."""


class Noise:
    """What is executed in place of the expert's actions, in bursts.

    At each undisturbed step a burst may begin; through it, one Gaussian draw is added to the
    action, or one random action is executed in its place.

    Attributes:
        random_share: the share of random actions that this episode has drawn.
        noisy_steps: steps disturbed so far.
    """

    def __init__(
        self,
        config: NoiseConfig,
        spec: Spec,
        rng: np.random.Generator,
    ) -> None:
        """Raises ConfigError if `config.scales` names a dimension that the robot lacks."""
        self.config = config
        self._rng = rng
        self._low = np.asarray(spec.action_low, np.float32)
        self._high = np.asarray(spec.action_high, np.float32)
        unknown = [name for name in config.scales if name not in spec.action_names]
        if unknown:
            raise ConfigError(
                [
                    f"noise.scales: no action dimension {unknown[0]!r}; there are: "
                    f"{', '.join(spec.action_names)}"
                ]
            )
        named = np.array([name in config.spared for name in spec.action_names])
        # noise between two ends would execute what the robot does not have
        self._spared = named | spec.is_binary
        factors = [config.scales.get(name, 1.0) for name in spec.action_names]
        deviation = config.std * np.array(factors) * (self._high - self._low) / 2
        self._scale = np.where(self._spared, 0.0, deviation)
        shares = config.random_shares
        self.random_share = shares[0]
        # a single share is not drawn: that would shift all draws that follow
        if len(shares) > 1:
            self.random_share = shares[rng.integers(len(shares))]
        self.noisy_steps = 0
        self._left = 0  # steps of the Gaussian burst
        self._until_draw = 0  # steps until it is drawn again whether a random action is executed
        self._instead: np.ndarray | None = None  # the random action, while one is executed

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """action (A,) -> the action to execute, inside the spec's bounds."""
        if self.random_share:
            random_action = self._random_action(action)
            if random_action is not None:
                return random_action
        return self._with_burst(action)

    def _random_action(self, action: np.ndarray) -> np.ndarray | None:
        """The random action in place of this one; None if the expert acts now."""
        if not self._until_draw:
            self._until_draw = self.config.duration
            self._instead = None
            if self._rng.random() < self.random_share:
                drawn = self._rng.uniform(self._low, self._high)
                self._instead = drawn.astype(np.float32)
        self._until_draw -= 1
        if self._instead is None:
            return None
        self.noisy_steps += 1
        executed = np.where(self._spared, action, self._instead)
        return self._bounded(executed)

    def _with_burst(self, action: np.ndarray) -> np.ndarray:
        # with std 0 nothing is drawn, nor within a burst
        may_begin = self.config.std and not self._left
        if may_begin and self._rng.random() < self.config.probability:
            self._left = self.config.duration
            # one draw for the whole burst: noise that changes at each step averages out
            self._offset = self._rng.normal(size=action.shape) * self._scale
        if not self._left:
            return action
        self._left -= 1
        self.noisy_steps += 1
        return self._bounded(action + self._offset)

    def _bounded(self, action: np.ndarray) -> np.ndarray:
        clipped = np.clip(action, self._low, self._high)
        return clipped.astype(np.float32)
