"""How often each policy solved what: the cards on top, the plot of intervals, and the table behind it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median

from vla.sim_eval.comparison.results import Results, returns, summary
from vla.sim_eval.report.markup import (
    NOTHING,
    Cell,
    Head,
    Section,
    interval,
    legend,
    mean_sd,
    percent,
    policy_class,
    table,
)
from vla.sim_eval.report.plots import axis_svg, intervals_svg, rows_plot
from vla.sim_eval.rollouts.jobs import EpisodeRecord

Row = tuple[str, str, str, list[list[EpisodeRecord]]]
"""Kind (overall, group, task), name, group, and each policy's episodes."""


def cards(columns: Sequence[Results]) -> str:
    """The rate of each policy in large figures, with its interval."""
    parts = []
    for i, result in enumerate(columns):
        overall = summary(result.episodes)
        more = f"<br>mean return {mean_sd(returns(result.episodes))}" if result.has_rewards else ""
        groups = (
            f"<br>mean of groups {percent(result.macro_rate)}" if len(result.groups) > 1 else ""
        )
        parts.append(
            f'<div class="card {policy_class(i)}"><div class="who">{escape(result.policy)}</div>'
            f'<div class="big">{percent(overall["rate"])}</div>{_card_bar(overall)}'
            f'<div class="count">{overall["successes"]} of {overall["episodes"]} episodes</div>'
            f'<div class="note">95 % interval {interval(overall["wilson95"])}&#8239;%{groups}{more}</div></div>\n'
        )
    return f'<div class="cards">\n{"".join(parts)}</div>\n'


def _card_bar(values: dict) -> str:
    low, high = values["wilson95"]
    return (
        f'<div class="gauge" aria-hidden="true"><i style="left:{100 * low:.1f}%;right:{100 * (1 - high):.1f}%"></i>'
        f'<b style="left:{100 * values["rate"]:.1f}%"></b></div>'
    )


def plot_section(columns: Sequence[Results]) -> Section:
    rows = [
        (kind, name, intervals_svg([summary(records) if records else None for records in cells]))
        for kind, name, _, cells in _rows(columns)
    ]
    body = legend(columns) + rows_plot(rows, axis_svg())
    return Section(
        "tasks", "Success by task", body, "Dots are rates, bars their 95 % Wilson intervals."
    )


def table_section(columns: Sequence[Results]) -> Section:
    rows = _rows(columns)
    groups = sum(kind == "group" for kind, *_ in rows) > 0
    split = len(columns) == 1
    rewards = [result.has_rewards for result in columns]
    heads = [Head("Task", numeric=False), *([Head("Group", numeric=False)] if groups else [])]
    if split:
        heads += [Head("Rate"), Head("Solved"), Head("95 % interval"), Head("Median steps")]
        heads += [Head("Return, mean ± sd")] if rewards[0] else []
    else:
        heads += [Head(result.policy, css=policy_class(i)) for i, result in enumerate(columns)]

    def line(name: str, group: str, cells: Sequence[list[EpisodeRecord]]) -> list[Cell]:
        first = [Cell(escape(name), name), *([Cell(escape(group), group)] if groups else [])]
        if split:
            return first + _split_cells(cells[0], rewards[0])
        return first + [_joint_cell(c, r) for c, r in zip(cells, rewards, strict=True)]

    everything = [list(result.episodes) for result in columns]
    empty = ([Cell("")] if groups else [], [Cell("")] * (3 + rewards[0]) if split else [])
    at_end = [summary(result.episodes, "success_at_end")["rate"] for result in columns]
    pinned = [
        line("all episodes", "", everything),
        _rates_line("still solved at the end", at_end, *empty),
    ]
    if groups:
        pinned.append(
            _rates_line("mean of groups", [result.macro_rate for result in columns], *empty)
        )
    pinned += [line(name, "", cells) for kind, name, _, cells in rows if kind == "group"]
    body = table(
        "Success rates",
        heads,
        [line(n, g, c) for kind, n, g, c in rows if kind == "task"],
        pinned=pinned,
    )
    note = "Rate, solved of played, and the 95 % Wilson interval in per cent. Press a heading to sort the tasks."
    return Section("rates", "Rates", body, note)


def _rates_line(
    name: str, rates: Sequence[float], before: list[Cell], after: list[Cell]
) -> list[Cell]:
    cells = [Cell(f"<b>{percent(rate)}</b>", css="number") for rate in rates]
    return [Cell(name), *before, *cells, *after]


def _split_cells(records: Sequence[EpisodeRecord], rewards: bool) -> list[Cell]:
    if not records:
        return [NOTHING] * (4 + rewards)
    values, found = summary(records), returns(records)
    steps = median(record.steps for record in records)
    cells = [
        Cell(f"<b>{percent(values['rate'])}</b>", values["rate"], "number"),
        Cell(f"{values['successes']}/{values['episodes']}", values["successes"], "number"),
        Cell(interval(values["wilson95"]), values["wilson95"][0], "number"),
        Cell(f"{steps:g}", steps, "number"),
    ]
    return cells + ([Cell(mean_sd(found), found["mean"], "number")] if rewards else [])


def _joint_cell(records: Sequence[EpisodeRecord], rewards: bool) -> Cell:
    if not records:
        return NOTHING
    values = summary(records)
    small = f"{values['successes']}/{values['episodes']}, {interval(values['wilson95'])}"
    more = f" <small>return {mean_sd(returns(records))}</small>" if rewards else ""
    return Cell(
        f"<b>{percent(values['rate'])}</b> <small>{small}</small>{more}",
        values["rate"],
        "number stacked",
    )


def _rows(columns: Sequence[Results]) -> list[Row]:
    """The whole, every group (where there are several) and every task."""

    def select(group: str | None = None, task: str | None = None) -> list[list[EpisodeRecord]]:
        return [
            [r for r in result.episodes if group in (None, r.group) and task in (None, r.task)]
            for result in columns
        ]

    groups: dict[str, dict[str, None]] = {}
    for result in columns:
        for record in result.episodes:
            groups.setdefault(record.group, {})[record.task] = None
    rows: list[Row] = [("overall", "all episodes", "", select())]
    for group, tasks in groups.items():
        if len(groups) > 1:
            rows.append(("group", group, group, select(group=group)))
        rows += [("task", task, group, select(task=task)) for task in tasks]
    return rows
