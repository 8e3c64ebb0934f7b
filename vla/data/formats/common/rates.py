"""The control rate of a dataset, out of what it says and of the times of its steps.

L: steps of an episode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.data.errors import DataError

_UNITS = (
    (1e-3, "milliseconds", (1e11, 1e14)),
    (1e-6, "microseconds", (1e14, 1e17)),
    (1e-9, "nanoseconds", (1e17, 1e20)),
)
"""Seconds, name, and between which numbers clock times of these years lie."""
_SLOWEST = 5.0
"""Seconds from step to step: no robot is controlled less often, so that times that rise by more
are of another unit."""
_USUAL = 0.5
"""The same: most are controlled more often, which chooses among the other units."""
_UNEVEN = 0.5
"""A step that takes this much longer or shorter than the median, relative to it, is worth a
warning."""
_LIKE = 0.2
"""Rates that differ by less than this share are of one clock."""


@dataclass(frozen=True)
class Timed:
    """What the times of the steps say.

    Attributes:
        hz: steps per second.
        warnings: sentences about what was assumed, and what is odd.
        of_episodes: steps per second of each episode; None if it has one step.
    """

    hz: float
    warnings: tuple[str, ...]
    of_episodes: tuple[float | None, ...]


def said(value: Any) -> float | None:
    """A rate that a description gives as a number or text (`30`, `"30"`, `"29.97 Hz"`); None if it
    is no positive number."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:hz|fps)?\s*", value, re.IGNORECASE)
        value = float(found[1]) if found else None
    # True is an int to Python
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if np.isfinite(value) and value > 0 else None


def timed(times: Sequence[np.ndarray], what: str = "timestamp") -> Timed | None:
    """The rate of steps at these times, one (L,) for each episode; None if no two steps follow each
    other or times do not rise.

    Args:
        what: the name of the times, for warnings.
    """
    steps = np.concatenate([np.diff(own.astype(np.float64)) for own in times])
    if not len(steps) or not (np.isfinite(steps) & (steps > 0)).all():
        return None
    warnings = []
    median = float(np.median(steps))
    first = float(next(own[0] for own in times if len(own)))
    second, unit = unit_of(median, first)
    even = np.abs(steps - median) <= _UNEVEN * median
    period = float(steps[even].mean()) * second  # of many, since single times are rounded
    hz = _rounded(period)
    if unit:
        warnings.append(
            f"{what} rises by {median:g} from step to step, which is taken for {unit} "
            f"({hz:g} Hz); give the rate if it is another (`control_hz=5`)"
        )
    own_rates = []
    for own in times:
        own_rates.append(
            _rounded(float(np.median(np.diff(own))) * second) if len(own) > 1 else None
        )
    if not even.all():
        warnings.append(
            f"{(~even).sum()} of {len(steps)} steps do not take about {period:.4g} s as the "
            "others do"
        )
    return Timed(hz, tuple(warnings), tuple(own_rates))


def check_rising(where: str, times_L: np.ndarray) -> None:
    """Raises DataError naming the first step whose time is not after the one before."""
    steps = np.diff(times_L)
    if np.isfinite(times_L).all() and not (steps <= 0).any():
        return
    row = int(np.argmax(~(steps > 0))) + 1  # `not >` holds of NaN too
    raise DataError(
        f"{where}: timestamp of step {row} is {times_L[row]}, after {times_L[row - 1]}; times must "
        "rise: correct them, or give the rate itself (`control_hz=5`)"
    )


def differing(rates: Sequence[float | None], taken: float, root: Any) -> str:
    """A sentence about episodes that run at other rates than the one that stands for all; empty if
    none does.

    Args:
        rates: of each episode; None if it does not say.
        taken: the rate that the dataset gets.
        root: of the dataset, for the commands that bring the episodes to one rate.
    """
    places: dict[float, list[int]] = {}
    for place, rate in enumerate(rates):
        if rate is None:
            continue
        # rates that are measured differ a little
        known = [other for other in places if abs(rate - other) <= _LIKE * other]
        places.setdefault(known[0] if known else rate, []).append(place)
    # the first of them is named in full: more commands would hide what is wrong
    others = [rate for rate in places if abs(rate - taken) > _LIKE * taken]
    if not others:
        return ""
    listed = ", ".join(f"{rate:g} Hz ({len(own)} episodes)" for rate, own in places.items())
    other = others[0]
    episodes = ",".join(map(str, places[other]))
    return (
        f"its control rate differs between episodes: {listed}; {taken:g} Hz stands for all. Bring "
        f"them to one: `vla data filter {root} PART --episodes {episodes} control_hz={other:g}`, "
        f"`vla data resample PART PART_{taken:g} --control-hz {taken:g}`, `vla data filter` with "
        f"the numbers of those at {taken:g} Hz, and `vla data merge` of the parts"
    )


def unit_of(median: float, first: float) -> tuple[float, str]:
    """(seconds, name) of the unit of time of steps that are `median` apart and begin at `first`;
    the name is empty of seconds."""
    if median <= _SLOWEST:
        return 1.0, ""
    for second, name, (least, most) in _UNITS:
        # clock times say themselves what they count
        if least <= first < most and median * second <= _SLOWEST:
            return second, name
    for second, name, _ in _UNITS:
        if median * second <= _USUAL:
            return second, name
    return 1.0, ""


def _rounded(period: float) -> float:
    # 29.9998 is meant as 30; what rounds to 0 stays as it is
    return round(1 / period, 3) or 1 / period
