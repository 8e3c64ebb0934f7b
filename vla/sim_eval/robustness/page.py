"""Success under perturbations as part of a report: panels, controls, numbers, meanings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vla.common.figures import style_sheet
from vla.common.html import render
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.perturbations import describe
from vla.sim_eval.report.columns import Head, Section
from vla.sim_eval.report.page import write_report
from vla.sim_eval.robustness.plot import panel_svg
from vla.sim_eval.robustness.table import Condition, Robustness, p_text

Cells = list[Condition | None]
"""The conditions in a row of a table; None if a severity was not played."""


def write_robustness_page(path: str | Path, robustness: Robustness, clean: Results) -> Path:
    """The report of the clean evaluation with the section of the perturbations in it."""
    return write_report(path, [clean], sections=[robustness_section(robustness)])


def robustness_section(robustness: Robustness) -> str:
    """The part of a report as a `<section>`; it brings its own style along."""
    clean, severities = robustness.clean, robustness.severities
    panels: dict[str, Markup] = {}
    graded: dict[str, Cells] = {}
    for kind, found in robustness.kinds.items():
        # HTML, as it is: matplotlib and `svg_text` have escaped its texts
        panels[kind] = Markup(panel_svg(kind, clean, found))
        graded[kind] = [clean, *map(found.get, severities)]
    controls: dict[str, Cells] = {}
    for control in robustness.controls:
        controls[control.kind] = [clean, control]
    body = render(
        "sim_eval/robustness/section.html.j2",
        robustness=robustness,
        # once for all panels
        figure_style=Markup(style_sheet()),
        panels=panels,
        graded=graded,
        graded_heads=_heads("Perturbation", [f"Severity {number}" for number in severities]),
        controls=controls,
        control_heads=_heads("Control", ["Under the control"]),
        control_lines=_control_lines(robustness),
        meanings={kind: describe(kind) for kind in (*graded, *controls)},
        # that of the table in documents: three decimals, one less than the report's own
        p_text=p_text,
    )
    note = (
        f"The same {clean.episodes} starts under every condition. "
        "Filled dots differ significantly from clean "
        f"(McNemar's exact test, adjusted by Holm for {len(robustness.conditions)} conditions)."
    )
    return Section("robustness", "Success under perturbations", body, note).html()


def _heads(first: str, others: Sequence[str]) -> list[Head]:
    return [Head(first, numeric=False), Head("Clean"), *map(Head, others)]


def _control_lines(robustness: Robustness) -> list[tuple[str, str, list[Any]]]:
    """Rows of the plot of controls: kind of row, name, marks. The clean condition comes first."""
    lines = []
    for condition in (robustness.clean, *robustness.controls):
        kind_of_row = "overall" if condition is robustness.clean else "task"
        # p0 is the colour of the page's first policy, the only one here
        marks = [("p0", condition.summary())]
        lines.append((kind_of_row, condition.kind.replace("_", " "), marks))
    return lines
