"""How a robot moved under late chunks, from the actions that it executed.

n actions of an episode, A action dimensions, d of delay, s actions per request.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla.control.realtime import ActionKind, RealtimeSettings
from vla.types import Spec

_DERIVATIVES: dict[ActionKind, int] = {"delta": 2, "absolute": 3}
"""Differences of actions that make the third one of positions: a change is a difference already."""


@dataclass(frozen=True)
class Motion:
    """How the robot moved in one episode. Actions are in half ranges of their dimension.

    Attributes:
        idle_steps: steps in which the robot stood and waited for a chunk.
        max_jump: the largest change of an action, in any dimension, from one chunk to another or
            between moving and waiting; 0 if there was no such step.
        jerk: mean squared jerk per control step, over steps and dimensions; None for an episode
            that is too short to have one.
    """

    idle_steps: int
    max_jump: float
    jerk: float | None


def motion_of(
    actions_nA: np.ndarray,
    spec: Spec,
    realtime: RealtimeSettings,
    every: int,
) -> Motion:
    """The motion of one episode; without delay `realtime.delay` is 0."""
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    unit_nA = actions_nA.astype(np.float64) / ((high - low) / 2)
    n = len(unit_nA)
    seams = seams_of(n, realtime, every)
    jumps = np.abs(np.diff(unit_nA, axis=0)).max(axis=1, initial=0.0)
    third_nA = np.diff(unit_nA, n=_DERIVATIVES[realtime.action_kind], axis=0)
    return Motion(
        idle_steps=len(idle_of(n, realtime, every)),
        max_jump=float(max((jumps[t - 1] for t in seams), default=0.0)),
        jerk=float(np.square(third_nA).mean()) if len(third_nA) else None,
    )


def seams_of(n: int, realtime: RealtimeSettings, every: int) -> list[int]:
    """The steps whose action is of another chunk than that of the step before."""
    d = realtime.delay
    if realtime.method != "hold":
        # every s steps an observation, and d steps later its chunk
        return list(range(every + d, n, every))
    if d == 0:
        return list(range(every, n, every))
    stops = range(every, n, every + d)
    starts = range(every + d, n, every + d)
    return sorted([*stops, *starts])


def idle_of(n: int, realtime: RealtimeSettings, every: int) -> list[int]:
    """The steps in which the robot stands and waits."""
    if realtime.method != "hold":
        return []
    cycle = every + realtime.delay
    return [t for t in range(n) if t % cycle >= every]


__all__ = ["Motion", "idle_of", "motion_of", "seams_of"]
