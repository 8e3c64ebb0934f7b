"""What late chunks do to a policy: a row for each method and latency, with paired tests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vla.common.atomic import write_text
from vla.sim_eval.comparison.comparability import paired_counts
from vla.sim_eval.comparison.results import Results, summary
from vla.sim_eval.realtime.motion import Motion
from vla.sim_eval.statistics import holm, mcnemar_exact

REALTIME_FILE = "realtime.json"
NO_DELAY = "no delay"


@dataclass(frozen=True)
class Played:
    """One condition as it was played: its results and the motion of every episode."""

    method: str
    latency: float
    delay: int
    results: Results
    motions: Sequence[Motion]


@dataclass(frozen=True)
class Against:
    """A paired comparison with another condition.

    Attributes:
        wins, losses: episodes that only this one, or only the other one solved.
        p_value: McNemar's exact test.
        p_adjusted: Holm's correction over all conditions that are compared with this one.
    """

    wins: int
    losses: int
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class Condition:
    """One method at one latency.

    Attributes:
        latency: seconds.
        delay: control steps.
        successes, episodes, rate: success at any step.
        interval: 95 % interval of the rate (Wilson).
        steps_of_solved: mean number of steps of solved episodes; None if there is none.
        idle_steps: mean number of steps of an episode in which the robot waited.
        max_jump: mean over episodes of the largest jump between chunks, in half ranges.
        jerk: mean squared jerk, in half ranges per control step; None if episodes are too short.
        against_no_delay, against_hold: paired tests; None for these conditions themselves.
        folder: of its results, relative to that of the table.
    """

    method: str
    latency: float
    delay: int
    successes: int
    episodes: int
    rate: float
    interval: tuple[float, float]
    steps_of_solved: float | None
    idle_steps: float
    max_jump: float
    jerk: float | None
    against_no_delay: Against | None
    against_hold: Against | None
    folder: str


@dataclass(frozen=True)
class RealtimeTable:
    """One policy on one suite under latencies, always from the same starts.

    Attributes:
        policy, suite: names.
        control_hz: control steps per second.
        replan_every: actions per request.
        conditions: no delay first.
        settings: of the methods.
        versions: what else decides the numbers.
        command: what to type to measure again.
        seconds: wall time of the evaluations.
    """

    policy: str
    suite: str
    control_hz: float
    replan_every: int
    conditions: tuple[Condition, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    seconds: float = 0.0

    def save(self, folder: str | Path) -> Path:
        """Writes `realtime.json`; returns the file."""
        path = Path(folder) / REALTIME_FILE
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")
        return path

    def table(self) -> Any:
        """A rich table for the terminal."""
        from vla.common.terminal.tables import Table, whole

        heads = ("", "latency", "solved", "steps", "idle", "jump", "jerk", "p no delay", "p hold")
        caption = (
            f"{self.conditions[0].episodes} episodes each, the same starts; in brackets 95 % "
            "intervals (Wilson); steps of solved episodes; jumps and jerk in half ranges of the "
            "actions; p: McNemar's exact test, adjusted (Holm)"
        )
        title = f"{self.policy} on {self.suite}"
        table = Table(*whole(*heads), title=title, caption=caption)
        for condition in self.conditions:
            table.add_row(*_cells(condition))
        return table


def _cells(condition: Condition) -> list[str]:
    low, high = condition.interval
    steps = condition.steps_of_solved
    jerk = condition.jerk
    return [
        condition.method,
        f"{condition.latency:g} s",
        f"{100 * condition.rate:.0f} % ({100 * low:.0f}-{100 * high:.0f})",
        "" if steps is None else f"{steps:.1f}",
        f"{condition.idle_steps:.1f}",
        f"{condition.max_jump:.2f}",
        "" if jerk is None else f"{jerk:.3g}",
        *map(_p_text, (condition.against_no_delay, condition.against_hold)),
    ]


def _p_text(against: Against | None) -> str:
    if against is None:
        return ""
    return "< 0.001" if against.p_adjusted < 0.001 else f"{against.p_adjusted:.2g}"


def conditions_of(played: Sequence[Played], folder: Path) -> tuple[Condition, ...]:
    """The rows of the table. The first condition is that without delay."""
    no_delay = played[0]
    holds = {other.latency: other for other in played if other.method == "hold"}
    against_no_delay = _compared([(other, no_delay) for other in played[1:]])
    moving = [other for other in played[1:] if other.method != "hold" and other.latency in holds]
    against_hold = _compared([(other, holds[other.latency]) for other in moving])
    return tuple(
        _condition(
            one,
            folder,
            against_no_delay.get((one.method, one.latency)),
            against_hold.get((one.method, one.latency)),
        )
        for one in played
    )


def _compared(pairs: Sequence[tuple[Played, Played]]) -> dict[tuple[str, float], Against]:
    """(method, latency) of the first of each pair -> how it compares with the second."""
    counts = [paired_counts(one.results, other.results) for one, other in pairs]
    p_values = [mcnemar_exact(*count) for count in counts]
    found = {}
    for (one, _), count, p, adjusted in zip(pairs, counts, p_values, holm(p_values), strict=True):
        wins, losses, _ = count
        found[one.method, one.latency] = Against(wins, losses, p, adjusted)
    return found


def _condition(
    one: Played, folder: Path, against_no_delay: Against | None, against_hold: Against | None
) -> Condition:
    values = summary(one.results.episodes)
    low, high = values["wilson95"]
    solved = [record.steps for record in one.results.episodes if record.success_ever]
    jerks = [motion.jerk for motion in one.motions if motion.jerk is not None]
    place = "" if one.results.folder is None else str(one.results.folder.relative_to(folder))
    return Condition(
        method=one.method,
        latency=one.latency,
        delay=one.delay,
        successes=values["successes"],
        episodes=values["episodes"],
        rate=values["rate"],
        interval=(low, high),
        steps_of_solved=_mean(solved) if solved else None,
        idle_steps=_mean([motion.idle_steps for motion in one.motions]),
        max_jump=_mean([motion.max_jump for motion in one.motions]),
        jerk=_mean(jerks) if jerks else None,
        against_no_delay=against_no_delay,
        against_hold=against_hold,
        folder=place,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


__all__ = ["NO_DELAY", "REALTIME_FILE", "Condition", "Played", "RealtimeTable", "conditions_of"]
