"""Limits of actions that hold what the data hold.

N: frames, A: action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vla.types import Spec

_NOTEWORTHY = 1e-5
"""As a share of the limit: float32 rounds by less."""


def fitting_limits(spec: Spec, actions_NA: np.ndarray) -> tuple[Spec, list[str]]:
    """`spec` with limits that hold all actions, and a note for each dimension whose actions leave
    its limits by more than rounding."""
    low = np.asarray(spec.action_low)
    high = np.asarray(spec.action_high)
    actions = actions_NA.astype(np.float64)
    least = actions.min(axis=0)
    most = actions.max(axis=0)
    slack = _NOTEWORTHY * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
    leaves = (least < low - slack) | (most > high + slack)
    notes = []
    for dim in np.flatnonzero(leaves):
        notes.append(
            f"action {spec.action_names[dim]!r} goes from {least[dim]:g} to {most[dim]:g}, the "
            f"source says {low[dim]:g} to {high[dim]:g}: the limits were widened"
        )
    # widened for rounding, too: the writer refuses what lies outside
    return _with_limits(spec, np.minimum(low, least), np.maximum(high, most)), notes


def common_limits(specs: Sequence[Spec]) -> tuple[Spec, list[str]]:
    """The first spec with limits that hold those of all, and a note for each dimension whose limits
    differ."""
    lows = np.array([spec.action_low for spec in specs])  # (datasets, A)
    highs = np.array([spec.action_high for spec in specs])
    low = lows.min(0)
    high = highs.max(0)
    differ = ~np.isclose(lows, lows[0]).all(0) | ~np.isclose(highs, highs[0]).all(0)
    notes = []
    for dim in np.flatnonzero(differ):
        notes.append(
            f"limits of action {specs[0].action_names[dim]!r} differ between the datasets: "
            f"{low[dim]:g} to {high[dim]:g} holds them all"
        )
    return _with_limits(specs[0], low, high), notes


def _with_limits(spec: Spec, low: np.ndarray, high: np.ndarray) -> Spec:
    return replace(spec, action_low=tuple(low.tolist()), action_high=tuple(high.tolist()))
