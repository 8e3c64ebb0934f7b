"""Limits of actions that hold what the data hold.

N: frames, A: action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vla.types import Spec

_NOTEWORTHY = 1e-5


def fitting_limits(spec: Spec, actions_NA: np.ndarray) -> tuple[Spec, list[str]]:
    """`spec` with limits widened where actions leave them, and a note for each dimension that
    leaves them by more than rounding."""
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    least, most = (extreme(actions_NA.astype(np.float64), axis=0) for extreme in (np.min, np.max))
    slack = _NOTEWORTHY * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
    notes = [
        f"action {name!r} goes from {least[dim]:g} to {most[dim]:g}, the source says {low[dim]:g} "
        f"to {high[dim]:g}: the limits were widened"
        for dim, name in enumerate(spec.action_names)
        if least[dim] < low[dim] - slack[dim] or most[dim] > high[dim] + slack[dim]
    ]
    return _with_limits(spec, np.minimum(low, least), np.maximum(high, most)), notes


def common_limits(specs: Sequence[Spec]) -> tuple[Spec, list[str]]:
    """The first spec with limits that hold those of all, and a note for each dimension whose limits
    differ."""
    lows, highs = np.array([s.action_low for s in specs]), np.array([s.action_high for s in specs])
    low, high = lows.min(0), highs.max(0)
    differ = ~np.isclose(lows, lows[0]).all(0) | ~np.isclose(highs, highs[0]).all(0)
    notes = [
        f"limits of action {name!r} differ between the datasets: {low[dim]:g} to {high[dim]:g} "
        "holds them all"
        for dim, name in enumerate(specs[0].action_names)
        if differ[dim]
    ]
    return _with_limits(specs[0], low, high), notes


def _with_limits(spec: Spec, low: np.ndarray, high: np.ndarray) -> Spec:
    return replace(spec, action_low=tuple(low.tolist()), action_high=tuple(high.tolist()))
