"""What an actor of stable-baselines3 gives -> actions of the robot.

N actions, A action dimensions, C combinations of a grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from vla.config import ConfigError
from vla.types import Spec

MOST_COMBINATIONS = 1000
"""Actions that a value network tells apart: it has an output for each."""


class Actions(ABC):
    """Between the learner's action space and the robot's units.

    Attributes:
        space: the action space that the learner sees.
    """

    space: gymnasium.Space[Any]

    @abstractmethod
    def to_robot(self, actions: np.ndarray) -> Float[np.ndarray, "N A"]:
        """Actions (N, ...) of `space` -> robot units, float32."""


class RangeActions(Actions):
    """Every dimension from -1 to 1, the limits of the spec."""

    def __init__(self, spec: Spec) -> None:
        low = np.asarray(spec.action_low, dtype=np.float32)
        high = np.asarray(spec.action_high, dtype=np.float32)
        # as the heads compute it, so that both round alike
        self._middle = (low + high) / 2
        self._half = (high - low) / 2
        self._spec = spec
        self.space = gymnasium.spaces.Box(-1.0, 1.0, (spec.action_dim,), np.float32)

    def to_robot(self, actions: np.ndarray) -> Float[np.ndarray, "N A"]:
        clipped = np.clip(np.asarray(actions, dtype=np.float32), -1.0, 1.0)
        return self._spec.to_ends(self._middle + self._half * clipped)


class GridActions(Actions):
    """The combinations of `bins` evenly spaced values of each dimension, of a binary one of its
    two.

    Attributes:
        table: (C, A), robot units.

    Raises ConfigError if there are more than `MOST_COMBINATIONS`.
    """

    def __init__(self, spec: Spec, bins: int, algorithm: str) -> None:
        binary = len(spec.binary_actions)
        if 2**binary * bins ** (spec.action_dim - binary) > MOST_COMBINATIONS:
            raise ConfigError([_too_many(bins, spec, algorithm)])
        values = []
        limits = zip(spec.action_low, spec.action_high, spec.is_binary, strict=True)
        for low, high, is_binary in limits:
            values.append(np.linspace(low, high, 2 if is_binary else bins))
        axes = np.meshgrid(*values, indexing="ij")
        self.table = np.stack([axis.ravel() for axis in axes], axis=-1).astype(np.float32)
        self.space = gymnasium.spaces.Discrete(len(self.table))

    def to_robot(self, actions: np.ndarray) -> Float[np.ndarray, "N A"]:
        return self.table[np.asarray(actions, dtype=np.int64).reshape(-1)]


def _too_many(bins: int, spec: Spec, algorithm: str) -> str:
    A = spec.action_dim - len(spec.binary_actions)
    most = MOST_COMBINATIONS // 2 ** len(spec.binary_actions)
    fewer = max((n for n in range(1, bins) if n**A <= most), default=1)
    remedy = f"set bins={fewer} or less, or " if fewer >= 2 else ""
    return (
        f"bins: {algorithm} chooses among the {bins}^{A} combinations of {bins} values of {A} "
        f"action dimensions, and at most {MOST_COMBINATIONS} are possible; {remedy}use an "
        "algorithm of continuous actions: algorithm=sac"
    )


__all__ = ["MOST_COMBINATIONS", "Actions", "GridActions", "RangeActions"]
