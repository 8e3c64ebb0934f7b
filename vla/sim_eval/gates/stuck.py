"""The expert acts where nothing moves."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vla.config import register
from vla.sim_eval.gates.base import Gate, GateConfig, Proposal
from vla.types import Spec


@register("gates", "stuck")
class StuckConfig(GateConfig):
    """The expert acts where nothing moves: no state dimension has changed by more than `tolerance`
    within the last `steps` steps."""

    type: Literal["stuck"] = "stuck"
    steps: int = Field(default=10, ge=1, le=10_000)
    """Over how many steps."""
    tolerance: float = Field(default=0.01, ge=0)
    """Greatest range of each state dimension over these steps, in its own units."""

    def build(self, spec: Spec) -> StuckGate:
        return StuckGate(self.steps, self.tolerance)


class StuckGate(Gate):
    """See `StuckConfig`; it also ends episodes (`Job.stop_if_stuck`)."""

    def __init__(self, steps: int, tolerance: float) -> None:
        self.tolerance = tolerance
        self._states: deque[np.ndarray] = deque(maxlen=steps + 1)

    def opens(self, proposal: Proposal) -> bool:
        return self.still(proposal.observation)

    def still(self, observation: dict[str, Any]) -> bool:
        """Whether nothing has moved up to this observation. Called once a step."""
        self._states.append(np.asarray(observation["state"], dtype=np.float32))
        if len(self._states) < (self._states.maxlen or 0):
            return False
        ranges = np.ptp(np.stack(self._states), axis=0)
        return bool((ranges <= self.tolerance).all())


__all__ = ["StuckConfig", "StuckGate"]
