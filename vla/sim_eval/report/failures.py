"""How episodes failed: kinds in each task, their counts, and the steps at which it went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from vla.common.html import render
from vla.sim_eval.comparison.failures import failure_counts, failure_steps
from vla.sim_eval.report.columns import (
    Column,
    FailureKind,
    Head,
    Section,
    failure_kinds,
    records_of,
)

TITLE = "How episodes failed"
NOTE = "Kinds of failure from early to late, as the simulator saw them."

Part = tuple[str, str, int]
"""A part of a bar: class of its colour, name, number of episodes."""


@dataclass(frozen=True)
class Lane:
    """One policy's failures of one kind.

    Attributes:
        column: the policy.
        steps: at which its episodes failed so, in rising order.
    """

    column: Column
    steps: list[int]

    @property
    def css(self) -> str:
        return self.column.css

    @property
    def share(self) -> float:
        """Of all episodes of the policy."""
        return len(self.steps) / len(self.column.results.episodes)

    @property
    def median(self) -> float:
        return median(self.steps)


@dataclass(frozen=True)
class Bar:
    """One policy's episodes of one task; without parts if it did not play the task."""

    column: Column
    parts: list[Part]


def failure_section(columns: Sequence[Column]) -> Section:
    records = records_of(columns)
    kinds = failure_kinds(records)
    if not kinds:
        return Section("failures", TITLE, Markup("<p>Every episode was solved.</p>\n"))
    bars, lanes = _bars(columns, kinds), _lanes(columns, kinds)
    body = render(
        "sim_eval/report/failures.html.j2",
        columns=columns,
        kinds=kinds,
        bars=[("bars", task, of_task) for task, of_task in bars.items()],
        heads=_heads(columns),
        lanes=lanes,
        lines=[("task", kind.label, of_kind) for kind, of_kind in lanes.items()],
        # of all episodes: the scale does not depend on which of them failed
        longest=max(1, *(record.steps for record in records)),
    )
    return Section("failures", TITLE, body, NOTE)


def outcome_parts(
    solved: int, counts: Mapping[str, int], kinds: Sequence[FailureKind]
) -> list[Part]:
    """The parts of a bar of episodes that are not empty: solved, then each kind of failure."""
    # "solved" first: bars begin alike, so their lengths compare
    parts = [("ok", "solved", solved)]
    for kind in kinds:
        parts.append((kind.css, kind.label, counts.get(kind.label, 0)))
    return [part for part in parts if part[2] > 0]


def _bars(columns: Sequence[Column], kinds: Sequence[FailureKind]) -> dict[str, list[Bar]]:
    """Task -> a bar for each policy."""
    # dict, not set: tasks stay in the order of the suite
    tasks = dict.fromkeys(record.task for record in records_of(columns))
    bars: dict[str, list[Bar]] = {task: [] for task in tasks}
    for column in columns:
        counts = failure_counts(column.results.episodes)
        for task, of_task in bars.items():
            failed = counts.get(task, Counter())
            # policies of one page need not have played the same tasks
            played = len(column.results.tasks.get(task, ()))
            parts = outcome_parts(played - failed.total(), failed, kinds)
            of_task.append(Bar(column, parts))
    return bars


def _lanes(
    columns: Sequence[Column], kinds: Sequence[FailureKind]
) -> dict[FailureKind, list[Lane]]:
    """Kind of failure -> a lane for each policy."""
    lanes: dict[FailureKind, list[Lane]] = {kind: [] for kind in kinds}
    for column in columns:
        steps = failure_steps(column.results.episodes)
        for kind, of_kind in lanes.items():
            of_kind.append(Lane(column, steps.get(kind.label, [])))
    return lanes


def _heads(columns: Sequence[Column]) -> list[Head]:
    first = Head("Kind of failure", numeric=False)
    if len(columns) == 1:
        return [first, Head("Episodes")]
    return [first, *(Head(column.policy, css=column.css) for column in columns)]
