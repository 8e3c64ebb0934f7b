"""How often each policy solved what: the cards on top, the plot of intervals, and the table behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from vla.common.html import render
from vla.sim_eval.comparison.results import returns, summary
from vla.sim_eval.report.columns import Column, Head, Section
from vla.sim_eval.rollouts.env_worker import EpisodeRecord


@dataclass(frozen=True)
class Rates:
    """What one policy did in some episodes.

    Attributes:
        summary: successes, episodes, rate and interval.
        steps: median number of control steps.
        returns: mean and deviation; None where the policy's envs gave no rewards.
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
        cells: for each policy; None where it played none of these episodes.
    """

    kind: str
    name: str
    group: str
    cells: list[Rates | None]


def cards(columns: Sequence[Column]) -> Markup:
    """The rate of each policy in large figures, with its interval."""
    rates = [_rates(column, list(column.results.episodes)) for column in columns]
    pairs = list(zip(columns, rates, strict=True))
    return render("sim_eval/report/cards.html.j2", cards=pairs)


def plot_section(columns: Sequence[Column]) -> Section:
    lines = [(row.kind, row.name, _marks(columns, row)) for row in _rows(columns)]
    body = render("sim_eval/report/rates_plot.html.j2", columns=columns, lines=lines)
    note = "Dots are rates, bars their 95 % Wilson intervals."
    return Section("tasks", "Success by task", body, note)


def table_section(columns: Sequence[Column]) -> Section:
    rows = _rows(columns)
    at_end = [summary(column.results.episodes, "success_at_end")["rate"] for column in columns]
    with_rewards = columns[0].results.has_rewards
    body = render(
        "sim_eval/report/rates_table.html.j2",
        heads=_heads(columns, groups=_have_groups(rows)),
        rows=rows,
        groups=_have_groups(rows),
        # one policy has room for a column for each number; several have one column each
        split=len(columns) == 1,
        with_rewards=with_rewards,
        at_end=at_end,
        macro_rates=[column.results.macro_rate for column in columns],
    )
    note = (
        "Rate, solved of played, and the 95 % Wilson interval in per cent. "
        "Press a heading to sort the tasks."
    )
    return Section("rates", "Rates", body, note)


def _marks(columns: Sequence[Column], row: Row) -> list[tuple[str, dict[str, Any] | None]]:
    """What is drawn of each policy: the class of its colour, and its rate with the interval."""
    pairs = zip(columns, row.cells, strict=True)
    return [(column.css, None if rates is None else rates.summary) for column, rates in pairs]


def _have_groups(rows: Sequence[Row]) -> bool:
    return any(row.kind == "group" for row in rows)


def _heads(columns: Sequence[Column], *, groups: bool) -> list[Head]:
    heads = [Head("Task", numeric=False)]
    if groups:
        heads.append(Head("Group", numeric=False))
    if len(columns) > 1:
        return heads + [Head(column.policy, css=column.css) for column in columns]
    heads += [Head("Rate"), Head("Solved"), Head("95 % interval"), Head("Median steps")]
    if columns[0].results.has_rewards:
        heads.append(Head("Return, mean ± sd"))
    return heads


def _rows(columns: Sequence[Column]) -> list[Row]:
    """All episodes, every group (where there are several) and every task."""
    tasks_of: dict[str, dict[str, None]] = {}  # group -> its tasks, as an ordered set
    for column in columns:
        for record in column.results.episodes:
            tasks_of.setdefault(record.group, {})[record.task] = None
    rows = [Row("overall", "all episodes", "", _cells(columns))]
    for group, tasks in tasks_of.items():
        if len(tasks_of) > 1:
            rows.append(Row("group", group, group, _cells(columns, group=group)))
        rows += [Row("task", task, group, _cells(columns, task=task)) for task in tasks]
    return rows


def _cells(
    columns: Sequence[Column], *, group: str | None = None, task: str | None = None
) -> list[Rates | None]:
    cells = []
    for column in columns:
        chosen = [
            record
            for record in column.results.episodes
            if group in (None, record.group) and task in (None, record.task)
        ]
        cells.append(_rates(column, chosen) if chosen else None)
    return cells


def _rates(column: Column, records: list[EpisodeRecord]) -> Rates:
    return Rates(
        summary=summary(records),
        steps=median(record.steps for record in records),
        returns=returns(records) if column.results.has_rewards else None,
    )
