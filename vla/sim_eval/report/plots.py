"""The plots of the report: small inline SVGs as wide as the page lets them be, and bars made of boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vla.sim_eval.env import FAILURES
from vla.sim_eval.report.markup import policy_class

LANE = 12  # pixels of height for each policy
MARGIN = 2.0  # per cent of the width left of the least and right of the greatest value, so that marks there are whole
FAILURE_COLOURS = 10  # classes f0 to f9 of the style sheet


def _x(share: float) -> str:
    """Horizontal place of a share in [0, 1], in per cent of the width."""
    return f"{MARGIN + share * (100 - 2 * MARGIN):.2f}%"


def _grid(height: float, places: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)) -> str:
    return "".join(
        f'<line class="grid" x1="{_x(t)}" x2="{_x(t)}" y1="0" y2="{height:g}"/>' for t in places
    )


def intervals_svg(marks: Sequence[Mapping[str, Any] | None]) -> str:
    """Rate and interval of each policy as a dot on a bar; None leaves a policy's lane empty.

    marks: summaries with `rate`, `wilson95`, `successes` and `episodes`.
    """
    height = LANE * len(marks) + 6
    parts = [_grid(height)]
    for i, mark in enumerate(marks):
        if mark is None:
            continue
        low, high = mark["wilson95"]
        y = 3 + LANE * (i + 0.5)
        text = f"{mark['successes']}/{mark['episodes']}, 95 % interval {100 * low:.0f} to {100 * high:.0f} %"
        parts.append(
            f'<g class="{policy_class(i)}"><title>{text}</title>'
            f'<line class="bar" x1="{_x(low)}" x2="{_x(high)}" y1="{y:g}" y2="{y:g}"/>'
            f'<circle cx="{_x(mark["rate"])}" cy="{y:g}" r="4"/></g>'
        )
    return f'<svg width="100%" height="{height}" role="img">{"".join(parts)}</svg>'


def axis_svg(labels: Sequence[str] = ("0", "25", "50", "75", "100 %")) -> str:
    """The scale under the rows: labels spread evenly."""
    last = len(labels) - 1
    anchors = ["start", *["middle"] * (last - 1), "end"]
    texts = "".join(
        f'<text x="{_x(i / last)}" y="13" text-anchor="{anchor}">{escape(label)}</text>'
        for i, (label, anchor) in enumerate(zip(labels, anchors, strict=True))
    )
    return f'<svg width="100%" height="18" aria-hidden="true">{texts}</svg>'


def difference_svg(difference: float, bounds: Sequence[float], *, clear: bool) -> str:
    """A difference of rates and its interval on a scale from -100 to 100 points; `clear` ones are drawn strong."""
    low, high = bounds
    low_x, high_x, x = (_x((value + 1) / 2) for value in (low, high, difference))
    return (
        f'<svg class="difference{" clear" * clear}" width="100%" height="14" role="img"><title>{100 * difference:+.0f} points, '
        f"95 % interval {100 * low:+.0f} to {100 * high:+.0f}</title>"
        f'<line class="zero" x1="50%" x2="50%" y1="0" y2="14"/>'
        f'<line class="bar" x1="{low_x}" x2="{high_x}" y1="7" y2="7"/><circle cx="{x}" cy="7" r="4"/></svg>'
    )


def failure_class(label: str, labels: Sequence[str]) -> str:
    """The colour of a kind of failure: fixed for those of `FAILURES`, then one after the other."""
    if label in FAILURES:
        return f"f{FAILURES.index(label)}"
    others = [other for other in labels if other not in FAILURES]
    free = FAILURE_COLOURS - len(FAILURES)
    return f"f{len(FAILURES) + others.index(label) % free}"


def outcome_bar(solved: int, counts: Mapping[str, int], labels: Sequence[str]) -> str:
    """All episodes of a task as one bar: solved, then each kind of failure as a part of its own."""
    total = solved + sum(counts.values())
    parts = [
        ("ok", "solved", solved),
        *((failure_class(k, labels), k, counts[k]) for k in labels if counts.get(k)),
    ]
    words = ", ".join(f"{name} {n}" for _, name, n in parts if n)
    boxes = "".join(
        f'<span class="{css}" style="flex-grow:{n}" title="{escape(name)}: {n} of {total}">'
        f"{n if n / total >= 0.06 else ''}</span>"
        for css, name, n in parts
        if n
    )
    return f'<div class="stack" role="img" aria-label="{escape(words)}">{boxes}</div>'


def steps_svg(lanes: Sequence[Sequence[int]], longest: int) -> str:
    """When episodes went wrong: a thin mark for each, a dot at the median; a lane for each policy."""
    height = LANE * len(lanes) + 6
    parts = [_grid(height)]
    for i, steps in enumerate(lanes):
        y = 3 + LANE * (i + 0.5)
        marks = "".join(
            f'<line class="tick" x1="{_x(s / longest)}" x2="{_x(s / longest)}" y1="{y - 4:g}" y2="{y + 4:g}"/>'
            for s in sorted(set(steps))
        )
        if steps:
            middle = sorted(steps)[len(steps) // 2]
            marks += f'<circle cx="{_x(middle / longest)}" cy="{y:g}" r="4"/>'
            text = f"{len(steps)} episodes, median step {middle}"
            parts.append(f'<g class="{policy_class(i)}"><title>{text}</title>{marks}</g>')
    return f'<svg width="100%" height="{height}" role="img">{"".join(parts)}</svg>'


def rows_plot(rows: Sequence[tuple[str, str, str]], axis: str = "") -> str:
    """Rows of (kind, name, drawing) over an axis; kinds are "overall", "group" and "task"."""
    lines = "".join(
        f'<div class="row {k}"><span>{escape(n)}</span>{drawing}</div>\n' for k, n, drawing in rows
    )
    foot = f'<div class="row axis"><span></span>{axis}</div>' if axis else ""
    return f'<div class="plot">\n{lines}{foot}</div>\n'
