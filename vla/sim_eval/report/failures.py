"""How episodes failed: the kinds in each task, their counts, and the steps at which things went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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

Part = tuple[str, str, int]
"""A part of a bar: class of its colour, name, number of episodes."""


def failure_section(columns: Sequence[Column]) -> Section:
    title = "How episodes failed"
    kinds = failure_kinds(records_of(columns))
    if not kinds:
        return Section("failures", title, Markup("<p>Every episode was solved.</p>\n"))
    steps = [failure_steps(column.results.episodes) for column in columns]
    lanes_of = {}  # kind -> (class, steps at which episodes went wrong) of each policy
    for kind in kinds:
        of_policies = [of_policy.get(kind.label, []) for of_policy in steps]
        css = [column.css for column in columns]
        lanes_of[kind] = list(zip(css, of_policies, strict=True))
    body = render(
        "sim_eval/report/failures.html.j2",
        columns=columns,
        kinds=kinds,
        bars=_bars(columns, kinds),
        heads=_heads(columns),
        rows=[(kind, _cells(columns, lanes)) for kind, lanes in lanes_of.items()],
        lines=[("task", kind.label, lanes) for kind, lanes in lanes_of.items()],
        longest=max(1, *(record.steps for record in records_of(columns))),
    )
    note = "Kinds of failure from early to late, as the simulator saw them."
    return Section("failures", title, body, note)


def _cells(
    columns: Sequence[Column], lanes: Sequence[tuple[str, list[int]]]
) -> list[tuple[int, float, float] | None]:
    """For each policy the number of episodes that failed so, their share of all, and the median step; None for none."""
    cells: list[tuple[int, float, float] | None] = []
    for column, (_, steps) in zip(columns, lanes, strict=True):
        share = len(steps) / len(column.results.episodes)
        cells.append((len(steps), share, median(steps)) if steps else None)
    return cells


def outcome_parts(
    solved: int, counts: Mapping[str, int], kinds: Sequence[FailureKind]
) -> list[Part]:
    """The parts of a bar of episodes, those that hold any: solved, then each kind of failure."""
    parts = [("ok", "solved", solved)]
    parts += [(kind.css, kind.label, counts.get(kind.label, 0)) for kind in kinds]
    return [part for part in parts if part[2] > 0]


def _bars(
    columns: Sequence[Column], kinds: Sequence[FailureKind]
) -> list[tuple[str, str, list[tuple[Column, list[Part]]]]]:
    """Rows of the plot: for each task the parts of every policy's bar, none where it did not play the task."""
    counts = [failure_counts(column.results.episodes) for column in columns]
    tasks = dict.fromkeys(task for column in columns for task in column.results.tasks)
    rows = []
    for task in tasks:
        lanes = []
        for column, of_policy in zip(columns, counts, strict=True):
            failed = of_policy.get(task, Counter())
            played = len(column.results.tasks.get(task, ()))
            lanes.append((column, outcome_parts(played - failed.total(), failed, kinds)))
        rows.append(("bars", task, lanes))
    return rows


def _heads(columns: Sequence[Column]) -> list[Head]:
    first = Head("Kind of failure", numeric=False)
    if len(columns) == 1:
        return [first, Head("Episodes")]
    return [first, *(Head(column.policy, css=column.css) for column in columns)]
