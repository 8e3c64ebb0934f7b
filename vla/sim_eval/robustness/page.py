"""Success under perturbations as part of a report: panels, controls, numbers and what the severities mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from vla.common.figures import style_sheet
from vla.common.html import render
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.perturbations import describe
from vla.sim_eval.report.columns import Head, Section
from vla.sim_eval.report.page import write_report
from vla.sim_eval.robustness.plot import panel_svg
from vla.sim_eval.robustness.table import Condition, Robustness, p_text

Row = tuple[str, list[Condition | None]]
"""Kind, and the conditions of its cells."""


def write_robustness_page(path: str | Path, robustness: Robustness, clean: Results) -> Path:
    """The report of the clean evaluation with the section of the perturbations in it, as one self-contained file."""
    return write_report(path, [clean], sections=[robustness_section(robustness)])


def robustness_section(robustness: Robustness) -> str:
    """The part of a report as a `<section>`; it brings its own style along."""
    clean, severities = robustness.clean, robustness.severities
    panels = {}
    graded: list[Row] = []
    for kind, found in robustness.kinds.items():
        # made by matplotlib, which escapes texts
        panels[kind] = Markup(panel_svg(kind, clean, found))
        graded.append((kind, [clean, *(found.get(severity) for severity in severities)]))
    controls: list[Row] = [(control.kind, [clean, control]) for control in robustness.controls]
    kinds = [*robustness.kinds, *(control.kind for control in robustness.controls)]
    body = render(
        "sim_eval/robustness/section.html.j2",
        robustness=robustness,
        figure_style=Markup(style_sheet()),
        panels=panels,
        graded=graded,
        graded_heads=_heads("Perturbation", [f"Severity {severity}" for severity in severities]),
        controls=controls,
        control_heads=_heads("Control", ["Under the control"]),
        control_lines=_control_lines(robustness),
        meanings={kind: describe(kind) for kind in kinds},
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


def _control_lines(robustness: Robustness) -> list[tuple[str, str, list]]:
    """Rows of the plot of controls, the clean condition first."""
    lines = []
    for condition in (robustness.clean, *robustness.controls):
        style = "overall" if condition is robustness.clean else "task"
        marks = [("p0", condition.summary())]
        lines.append((style, condition.kind.replace("_", " "), marks))
    return lines
