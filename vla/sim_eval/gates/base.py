"""The contract of gates: at which steps the expert acts in the policy's place.

A: action dimensions.

Source: Kelly et al., 2019, "HG-DAgger: interactive imitation learning with human experts".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.config import Config
from vla.control.settings import Measure
from vla.types import Spec


@dataclass(frozen=True)
class Proposal:
    """What a gate is shown at a step, before anything is done.

    Attributes:
        observation: what the env gives; its images may be missing.
        action: (A,), what the policy would do.
        expert: (A,), what the expert would do.
        uncertainty: of the policy in the chunk that the action belongs to, by the gate's
            `policy_measure`; None without one.
        instruction: what the policy is asked to do.
    """

    observation: dict[str, Any]
    action: np.ndarray
    expert: np.ndarray
    uncertainty: float | None = None
    instruction: str = ""


class Gate(ABC):
    """Decides at each step of one episode whether the expert should act now."""

    @abstractmethod
    def opens(self, proposal: Proposal) -> bool:
        """Whether the expert acts at this step. Called once a step, in their order."""

    def executed(self, action: np.ndarray) -> None:  # noqa: B027  # most gates need not know
        """Called after `opens` with what is executed at this step, the policy's action or the
        expert's, (A,)."""

    def close(self) -> None:  # noqa: B027  # most gates hold nothing
        """Called at the end of the episode; by default nothing is left to do."""


class GateConfig(Config, ABC):
    """Base of the configs registered under "gates"; a subclass adds `type: Literal["name"]`."""

    @property
    def policy_measure(self) -> Measure | None:
        """What it has to know of the policy's own distribution; None for nothing."""
        return None

    @property
    def needs_images(self) -> bool:
        """Whether it looks at the pictures of every step, also of those within a chunk."""
        return False

    @property
    def needs_person(self) -> bool:
        """Whether a person decides, at the terminal of this process."""
        return False

    @abstractmethod
    def build(self, spec: Spec) -> Gate:
        """The gate of one episode."""


__all__ = ["Gate", "GateConfig", "Proposal"]
