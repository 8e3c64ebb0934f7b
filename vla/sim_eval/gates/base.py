"""The contract of gates: at which steps the expert acts in the policy's place.

A: action dimensions.

Source: Kelly et al., 2019, "HG-DAgger: interactive imitation learning with human experts".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from vla.config import Config
from vla.types import Spec


class Gate(ABC):
    """Decides at each step of one episode whether the expert should act now."""

    @abstractmethod
    def opens(self, observation: dict[str, Any], action: np.ndarray, expert: np.ndarray) -> bool:
        """Whether the expert acts at this step.

        Args:
            observation: what the env gives at this step; its images may be missing.
            action: (A,), what the policy would do.
            expert: (A,), what the expert would do.
        """


class GateConfig(Config, ABC):
    """Base of the configs registered under "gates"; a subclass adds `type: Literal["name"]`."""

    @abstractmethod
    def build(self, spec: Spec) -> Gate:
        """The gate of one episode."""


__all__ = ["Gate", "GateConfig"]
