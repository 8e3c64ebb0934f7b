"""A perturbation and a control of another package, as the entry-point group `vla.plugins` would import them."""

from __future__ import annotations

import numpy as np

from vla import register
from vla.sim_eval.perturbations import Perturbation


@register("perturbations", "test_push")
class Push(Perturbation):
    """A steady push to the right."""

    kind = "test_push"
    levels = (0.1, 0.2, 0.4)
    unit = "x + {} of the action's range"

    def action(self, action: np.ndarray) -> np.ndarray:
        pushed = action + np.array([self.level, 0.0], dtype=np.float32)
        return np.clip(pushed, -1, 1).astype(np.float32)


@register("perturbations", "test_idle")
class Idle(Perturbation):
    """Control: the robot does nothing."""

    kind = "test_idle"
    unit = "no action is executed"

    def action(self, action: np.ndarray) -> np.ndarray:
        return np.zeros_like(action)
