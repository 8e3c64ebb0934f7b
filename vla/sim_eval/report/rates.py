"""How often each policy solved what: cards on top, the plot of intervals, the table behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from vla.common.html import render
from vla.sim_eval.comparison.results import returns, summary
from vla.sim_eval.report.columns import Column, Head, Section
from vla.sim_eval.rollouts.jobs import EpisodeRecord

TABLE_NOTE = (
    "Rate, solved of played, and the 95 % Wilson interval in per cent. "
    "Press a heading to sort the tasks."
)


@dataclass(frozen=True)
class Rates:
    """What one policy did in some episodes.

    Attributes:
        summary: successes, episodes, rate and interval.
        steps: median number of control steps.
        returns: mean and deviation; None if the policy's envs gave no rewards.
    """

    summary: dict[str, Any]
    steps: float
    returns: dict[str, float] | None


@dataclass(frozen=True)
class Row:
    """Some episodes of every policy: all of them ("overall"), those of a "group" or of a "task".

    Attributes:
        kind: which of the three.
        name: what the row is called.
        group: of the task; empty for all episodes.
        cells: for each policy; None if it played none of these episodes.
    """

    kind: str
    name: str
    group: str
    cells: list[Rates | None]


def cards(columns: Sequence[Column]) -> Markup:
    """The rate of each policy in large figures, with its interval."""
    of_policies = [(column, _rates(column, column.results.episodes)) for column in columns]
    return render("sim_eval/report/cards.html.j2", cards=of_policies)


def plot_section(columns: Sequence[Column]) -> Section:
    lines = []
    for row in _rows(columns):
        lines.append((row.kind, row.name, _marks(columns, row)))
    body = render("sim_eval/report/rates_plot.html.j2", columns=columns, lines=lines)
    note = "Dots are rates, bars their 95 % Wilson intervals."
    return Section("tasks", "Success by task", body, note)


def table_section(columns: Sequence[Column]) -> Section:
    rows = _rows(columns)
    groups = any(row.kind == "group" for row in rows)
    results = [column.results for column in columns]
    body = render(
        "sim_eval/report/rates_table.html.j2",
        heads=_heads(columns, groups=groups),
        rows=rows,
        groups=groups,
        # one policy has room for a column of each number; several policies have one column each
        split=len(columns) == 1,
        with_rewards=results[0].has_rewards,
        at_end=[summary(found.episodes, "success_at_end")["rate"] for found in results],
        macro_rates=[found.macro_rate for found in results],
    )
    return Section("rates", "Rates", body, TABLE_NOTE)


def _heads(columns: Sequence[Column], *, groups: bool) -> list[Head]:
    heads = [Head("Task", numeric=False)]
    if groups:
        heads.append(Head("Group", numeric=False))
    if len(columns) > 1:
        heads += [Head(column.policy, css=column.css) for column in columns]
        return heads
    heads += [Head("Rate"), Head("Solved")]
    heads += [Head("95 % interval"), Head("Median steps")]
    if columns[0].results.has_rewards:
        heads.append(Head("Return, mean ± sd"))
    return heads


def _marks(columns: Sequence[Column], row: Row) -> list[tuple[str, dict[str, Any] | None]]:
    """What is drawn of each policy: the class of its colour, and its rate with the interval."""
    marks: list[tuple[str, dict[str, Any] | None]] = []
    for column, rates in zip(columns, row.cells, strict=True):
        marks.append((column.css, None if rates is None else rates.summary))
    return marks


def _rows(columns: Sequence[Column]) -> list[Row]:
    """All episodes, every group (if there are several) and every task."""
    # group -> its tasks; dicts as sets that keep the order of the suite
    tasks_of: dict[str, dict[str, None]] = {}
    for column in columns:
        for record in column.results.episodes:
            tasks_of.setdefault(record.group, {})[record.task] = None
    rows = [Row("overall", "all episodes", "", _cells(columns))]
    for group, tasks in tasks_of.items():
        # the only group would repeat the row of all episodes
        if len(tasks_of) > 1:
            rows.append(Row("group", group, group, _cells(columns, group=group)))
        for task in tasks:
            rows.append(Row("task", task, group, _cells(columns, task=task)))
    return rows


def _cells(
    columns: Sequence[Column], *, group: str | None = None, task: str | None = None
) -> list[Rates | None]:
    """What each policy did in the episodes of this group or task; by default in all."""
    cells = []
    for column in columns:
        chosen = [
            record
            for record in column.results.episodes
            if group in (None, record.group) and task in (None, record.task)
        ]
        cells.append(_rates(column, chosen) if chosen else None)
    return cells


def _rates(column: Column, records: Sequence[EpisodeRecord]) -> Rates:
    return Rates(
        summary=summary(records),
        steps=median(record.steps for record in records),
        # all zeros would look like a result if the env knows no rewards
        returns=returns(records) if column.results.has_rewards else None,
    )
