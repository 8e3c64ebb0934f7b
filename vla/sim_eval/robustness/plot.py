"""The table of perturbations as a picture: one small panel for each kind, success against severity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from vla.sim_eval.comparison.results import Results
from vla.sim_eval.perturbations import describe
from vla.sim_eval.report.markup import NOTHING, Cell, Head, Section, interval, percent, table
from vla.sim_eval.report.page import write_report
from vla.sim_eval.report.plots import axis_svg, intervals_svg, rows_plot
from vla.sim_eval.robustness.table import Condition, Robustness, p_text

WIDTH, HEIGHT = 190, 142  # of a panel, in user units
LEFT, RIGHT, TOP, BOTTOM = 34, 8, 26, 20
COLUMNS = 4
_STYLE = """
.panel .grid { stroke: var(--line, #e0e3e6); stroke-width: 1; }
.panel .band { fill: var(--own, #2260c4); opacity: 0.1; }
.panel .level { stroke: var(--own, #2260c4); stroke-width: 1; stroke-dasharray: 3 3; opacity: 0.6; }
.panel .path { fill: none; stroke: var(--own, #2260c4); stroke-width: 2; stroke-linejoin: round; }
.panel .whisker { stroke: var(--own, #2260c4); stroke-width: 4; stroke-linecap: round; opacity: 0.35; }
.panel circle { fill: var(--card, #ffffff); stroke: var(--own, #2260c4); stroke-width: 2; }
.panel circle.differs { fill: var(--own, #2260c4); }
.panel circle.clean { fill: var(--quiet, #5a6675); stroke: var(--quiet, #5a6675); }
.panel text { fill: var(--quiet, #5a6675); font: 11px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.panel .name { fill: var(--ink, #18212c); font-weight: 650; font-size: 12.5px; }
"""
_GRID_STYLE = """
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); gap: 0.6rem; }
.panels figure { padding: 0.5rem 0.4rem 0.3rem; max-width: none; }
.panels svg { width: 100%; height: auto; }
#robustness dt { font-weight: 600; font-size: 0.9rem; margin-top: 0.5rem; }
#robustness dd { margin: 0; color: var(--quiet); font-size: 0.9rem; }
"""


def panel(kind: str, clean: Condition, found: Mapping[int, Condition]) -> str:
    """One kind's panel as SVG elements of `WIDTH` x `HEIGHT` units; hollow dots do not differ from clean."""
    points = {0: clean, **dict(sorted(found.items()))}
    parts = [f'<text class="name" x="{LEFT}" y="15">{escape(kind.replace("_", " "))}</text>']
    for share in (0.0, 0.5, 1.0):
        y = _y(share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{100 * share:.0f}</text>'
        )
    low, high = clean.interval
    parts.append(
        f'<rect class="band" x="{LEFT}" width="{WIDTH - RIGHT - LEFT}" y="{_y(high):g}" height="{_y(low) - _y(high):g}"/>'
    )
    path = " ".join(f"{_x(severity):g},{_y(c.rate):g}" for severity, c in points.items())
    parts.append(f'<polyline class="path" points="{path}"/>')
    parts += [_mark(severity, condition) for severity, condition in points.items()]
    labels = {severity: str(severity) if severity else "clean" for severity in points}
    parts += [
        f'<text x="{_x(s):g}" y="{HEIGHT - 5}" text-anchor="middle">{text}</text>'
        for s, text in labels.items()
    ]
    return "".join(parts)


def _mark(severity: int, condition: Condition) -> str:
    low, high = condition.interval
    x = _x(severity)
    text = f"{condition.successes}/{condition.episodes}, 95 % interval {100 * low:.0f} to {100 * high:.0f} %"
    if severity:
        text = f"{describe(condition.kind, severity)}: {text}, adjusted p {p_text(condition.p_adjusted)}"
    css = ' class="differs"' if condition.differs else "" if severity else ' class="clean"'
    return (
        f"<g><title>{escape(text)}</title>"
        f'<line class="whisker" x1="{x:g}" x2="{x:g}" y1="{_y(low):g}" y2="{_y(high):g}"/>'
        f'<circle cx="{x:g}" cy="{_y(condition.rate):g}" r="4"{css}/></g>'
    )


def _x(severity: int) -> float:
    inside = WIDTH - LEFT - RIGHT - 28
    return round(LEFT + 14 + inside * severity / 3, 2)


def _y(share: float) -> float:
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 2)


def robustness_svg(robustness: Robustness) -> str:
    """All panels as one SVG that stands alone, for a document. Empty (a picture without panels) for controls alone."""
    kinds = robustness.kinds
    rows = -(-len(kinds) // COLUMNS)
    width, height = WIDTH * min(COLUMNS, max(len(kinds), 1)), (HEIGHT + 10) * max(rows, 1)
    panels = "".join(
        f'<g class="panel" transform="translate({WIDTH * (i % COLUMNS)} {(HEIGHT + 10) * (i // COLUMNS)})">'
        f"{panel(kind, robustness.clean, found)}</g>\n"
        for i, (kind, found) in enumerate(kinds.items())
    )
    title = escape(
        f"Success of {robustness.policy} on {robustness.suite} against severity, per cent"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n"
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n{panels}</svg>\n'
    )


def robustness_section(robustness: Robustness) -> str:
    """The part of a report: panels, controls and the table as a `<section>`; it brings its own style along."""
    body = f"<style>{_STYLE}{_GRID_STYLE}</style>\n{_panels(robustness)}{_controls(robustness)}{_table(robustness)}"
    body += _meanings([*robustness.kinds, *(control.kind for control in robustness.controls)])
    if robustness.skipped:
        lines = "".join(
            f"<li>{escape(kind)}: {escape(reason)}</li>\n"
            for kind, reason in robustness.skipped.items()
        )
        body += f'<h3>Not played</h3>\n<ul class="notes">\n{lines}</ul>\n'
    body += f'<pre class="command">{escape(robustness.command)}</pre>\n'
    note = (
        f"The same {robustness.clean.episodes} starts under every condition. Filled dots differ significantly from clean "
        f"(McNemar's exact test, adjusted by Holm for {len(robustness.conditions)} conditions)."
    )
    return Section("robustness", "Success under perturbations", body, note).html()


def write_robustness_page(path: str | Path, robustness: Robustness, clean: Results) -> Path:
    """The report of the clean evaluation with the section of the perturbations in it, as one self-contained file."""
    return write_report(path, [clean], sections=[robustness_section(robustness)])


def _panels(robustness: Robustness) -> str:
    figures = "".join(
        f'<figure class="p0"><svg class="panel" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(kind)}: {escape(describe(kind))}</title>{panel(kind, robustness.clean, found)}</svg></figure>\n"
        for kind, found in robustness.kinds.items()
    )
    return f'<div class="panels">\n{figures}</div>\n' if figures else ""


def _controls(robustness: Robustness) -> str:
    if not robustness.controls:
        return ""
    rows = [
        (
            "overall" if condition is robustness.clean else "task",
            condition.kind.replace("_", " "),
            intervals_svg([condition.summary()]),
        )
        for condition in (robustness.clean, *robustness.controls)
    ]
    return f"<h3>Controls</h3>\n{rows_plot(rows, axis_svg())}"


def _table(robustness: Robustness) -> str:
    severities, clean = robustness.severities, robustness.clean
    heads = [
        Head("Perturbation", numeric=False),
        Head("Clean"),
        *(Head(f"Severity {s}") for s in severities),
    ]
    rows = [
        _row(kind, [clean, *(found.get(s) for s in severities)])
        for kind, found in robustness.kinds.items()
    ]
    text = "<h3>Numbers</h3>\n" + (
        table("Success under perturbations", heads, rows) if rows else ""
    )
    if robustness.controls:
        heads = [Head("Control", numeric=False), Head("Clean"), Head("Under the control")]
        text += table(
            "Success under controls", heads, [_row(c.kind, [clean, c]) for c in robustness.controls]
        )
    return text


def _meanings(kinds: Sequence[str]) -> str:
    lines = "".join(
        f"<dt>{escape(k.replace('_', ' '))}</dt><dd>{escape(describe(k))}</dd>\n" for k in kinds
    )
    return f"<details><summary>What the severities mean</summary>\n<dl>\n{lines}</dl></details>\n"


def _row(kind: str, conditions: Sequence[Condition | None]) -> list[Cell]:
    return [
        Cell(escape(kind.replace("_", " ")), kind),
        *(_cell(condition) if condition is not None else NOTHING for condition in conditions),
    ]


def _cell(condition: Condition) -> Cell:
    rate = percent(condition.rate)
    shown = f"<b>{rate}</b>" if condition.differs else rate
    p = "" if condition.severity == 0 else f", p {escape(p_text(condition.p_adjusted))}"
    counts = f"{condition.successes}/{condition.episodes}"
    text = f"{shown}<small>{counts}, {interval(condition.interval)}&#8239;%{p}</small>"
    return Cell(text, condition.rate, "number stacked")
