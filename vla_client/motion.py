"""What of an action may be sent: pure functions of the action and what was sent last.

A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_client.governor_config import Bounds, GovernorConfig


@dataclass(frozen=True)
class Judgement:
    """What becomes of one action.

    Attributes:
        action_A: what is sent, float64 (A,); None if the action is rejected.
        why: reasons of the rejection, or of each change.
    """

    action_A: np.ndarray | None
    why: tuple[str, ...] = ()


def rejected(why: str) -> Judgement:
    """An action that is not sent."""
    return Judgement(None, (why,))


def well_formed(action: Any, dimensions: int) -> np.ndarray | None:
    """The action as float64 (A,), or None if it has another shape or is not finite."""
    try:
        action_A = np.array(action, np.float64)
    except (TypeError, ValueError):
        return None
    fits = action_A.shape == (dimensions,) and bool(np.isfinite(action_A).all())
    return action_A if fits else None


def positions(measured: Any, bounds: Bounds) -> np.ndarray | None:
    """Measured positions (A,), 0 in dimensions that are not `absolute`; None if one is unknown."""
    if measured is None or np.shape(measured) != bounds.kinds.shape:
        return None
    return well_formed(np.where(bounds.kinds == "absolute", measured, 0.0), len(bounds.kinds))


def held(bounds: Bounds, sent_A: np.ndarray) -> np.ndarray:
    """The command that moves nothing: positions as sent last, motions and speeds 0."""
    moves = (bounds.kinds == "delta") | (bounds.kinds == "velocity")
    return np.where(moves, 0.0, sent_A)


def judge(
    action_A: np.ndarray,
    reference_A: np.ndarray,
    measured_A: np.ndarray | None,
    config: GovernorConfig,
    bounds: Bounds,
    *,
    ramping: bool,
) -> Judgement:
    """Jump, distance from the measured position, limits, workspace and rate, in this order.

    Args:
        action_A: finite.
        reference_A: what was sent last; NaN where nothing is known, which bounds nothing.
        measured_A: where the robot is; only `absolute` dimensions are read.
        ramping: whether the way to a run's first position is being made, whose length is no fault.
    """
    # a motion per step is its own step, whatever came before it
    base_A = np.where(bounds.kinds == "delta", 0.0, reference_A)
    jumps = np.abs(action_A - base_A) > config.reject_factor * bounds.max_step
    if not ramping and jumps.any():
        return rejected("jump")
    near_A = action_A
    if np.isfinite(bounds.max_from_measured).any():
        if measured_A is None:
            return rejected("no_measurement")
        near_A = _near(action_A, measured_A, bounds)
    limited_A = np.clip(near_A, bounds.low, bounds.high)
    inside_A = np.clip(limited_A, bounds.inner_low, bounds.inner_high)
    # between the last command and a place within the limits, so it is within them as well
    base_A = np.where(np.isnan(base_A), inside_A, base_A)
    slow_A = np.clip(inside_A, base_A - bounds.max_step, base_A + bounds.max_step)
    stages = (
        ("from_measured", action_A, near_A),
        ("limits", near_A, limited_A),
        ("workspace", limited_A, inside_A),
        ("rate", inside_A, slow_A),
    )
    why = [name for name, before, after in stages if (before != after).any()]
    counts = [name for name in why if not (ramping and name == "rate")]
    if config.on_violation == "refuse" and counts:
        return rejected(counts[0])
    return Judgement(slow_A, tuple(counts))


def _near(action_A: np.ndarray, measured_A: np.ndarray, bounds: Bounds) -> np.ndarray:
    """The action at most `max_from_measured` from the measured position, in `absolute` dims."""
    far_A = np.clip(
        action_A, measured_A - bounds.max_from_measured, measured_A + bounds.max_from_measured
    )
    return np.where(bounds.kinds == "absolute", far_A, action_A)
