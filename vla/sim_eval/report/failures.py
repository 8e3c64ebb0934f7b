"""How episodes failed: the kinds in each task, their counts, and the steps at which things went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from statistics import median

from vla.sim_eval.comparison.failures import failure_counts, failure_labels, failure_steps
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.report.markup import (
    NOTHING,
    Cell,
    Head,
    Section,
    legend,
    percent,
    policy_class,
    table,
)
from vla.sim_eval.report.plots import axis_svg, failure_class, outcome_bar, rows_plot, steps_svg


def failure_section(columns: Sequence[Results]) -> Section:
    records = [record for result in columns for record in result.episodes]
    labels = failure_labels(records)
    title = "How episodes failed"
    if not labels:
        return Section("failures", title, "<p>Every episode was solved.</p>\n")
    chips = "".join(
        f'<span><i class="{failure_class(label, labels)}"></i>{escape(label)}</span>'
        for label in labels
    )
    body = f'<div class="legend kinds"><span><i class="ok"></i>solved</span>{chips}</div>\n'
    body += _bars(columns, labels) + _table(columns, labels)
    body += "<h3>When it went wrong</h3>\n" + legend(columns) + _when(columns, labels)
    return Section(
        "failures", title, body, "Kinds of failure from early to late, as the simulator saw them."
    )


def _bars(columns: Sequence[Results], labels: Sequence[str]) -> str:
    counts = [failure_counts(result.episodes) for result in columns]
    rows = []
    for task in dict.fromkeys(task for result in columns for task in result.tasks):
        bars = []
        for i, result in enumerate(columns):
            played = len(result.tasks.get(task, ()))
            failed = counts[i].get(task, Counter())
            bar = outcome_bar(played - sum(failed.values()), failed, labels) if played else ""
            mark = (
                f'<b class="{policy_class(i)}" title="{escape(result.policy)}"></b>'
                if len(columns) > 1
                else ""
            )
            bars.append(f'<div class="lane">{mark}{bar}</div>')
        rows.append(("bars", task, f"<div>{''.join(bars)}</div>"))
    return rows_plot(rows)


def _table(columns: Sequence[Results], labels: Sequence[str]) -> str:
    heads = [Head("Kind of failure", numeric=False)]
    names = [result.policy for result in columns] if len(columns) > 1 else ["Episodes"]
    heads += [
        Head(name, css=policy_class(i) if len(columns) > 1 else "") for i, name in enumerate(names)
    ]
    steps = [failure_steps(result.episodes) for result in columns]
    rows = []
    for label in labels:
        cells = []
        for result, of_policy in zip(columns, steps, strict=True):
            found = of_policy.get(label, [])
            share = percent(len(found) / len(result.episodes))
            small = f"<small>{share} of all, median step {median(found):g}</small>" if found else ""
            cells.append(
                Cell(f"<b>{len(found)}</b> {small}", len(found), "number stacked")
                if found
                else NOTHING
            )
        chip = f'<i class="chip {failure_class(label, labels)}"></i>'
        rows.append([Cell(f"{chip}{escape(label)}", str(labels.index(label)).zfill(3)), *cells])
    return table("Kinds of failure", heads, rows)


def _when(columns: Sequence[Results], labels: Sequence[str]) -> str:
    steps = [failure_steps(result.episodes) for result in columns]
    longest = max(1, *(record.steps for result in columns for record in result.episodes))
    rows = [
        ("task", label, steps_svg([of_policy.get(label, []) for of_policy in steps], longest))
        for label in labels
    ]
    scale = axis_svg(("start", f"step {longest // 2}", f"step {longest}"))
    return rows_plot(rows, scale)
