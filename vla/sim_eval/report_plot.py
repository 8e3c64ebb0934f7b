"""The interval plot of the report: one small inline SVG per row, as wide as the page lets it be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LANE = 12  # pixels of height for each policy
MARGIN = 2.0  # per cent of the width left of 0 and right of 1, so that marks at the ends are whole


def _x(rate: float) -> str:
    """Horizontal place of a rate in [0, 1], in per cent of the width."""
    return f"{MARGIN + rate * (100 - 2 * MARGIN):.2f}%"


def intervals_svg(marks: Sequence[Mapping[str, Any] | None]) -> str:
    """Rate and interval of each policy as a dot on a bar; None leaves a policy's lane empty.

    marks: summaries with `rate`, `wilson95`, `successes` and `episodes`.
    """
    height = LANE * len(marks) + 6
    parts = [f'<line class="grid" x1="{_x(t)}" x2="{_x(t)}" y1="0" y2="{height}"/>' for t in (0, 0.25, 0.5, 0.75, 1)]
    for i, mark in enumerate(marks):
        if mark is None:
            continue
        low, high = mark["wilson95"]
        y = 3 + LANE * (i + 0.5)
        text = f"{mark['successes']}/{mark['episodes']}, 95 % interval {100 * low:.0f} to {100 * high:.0f} %"
        parts.append(
            f'<g class="p{i % 6}"><title>{text}</title>'
            f'<line class="bar" x1="{_x(low)}" x2="{_x(high)}" y1="{y:g}" y2="{y:g}"/>'
            f'<circle cx="{_x(mark["rate"])}" cy="{y:g}" r="4"/></g>'
        )
    return f'<svg width="100%" height="{height}" role="img">{"".join(parts)}</svg>'


def axis_svg() -> str:
    """The scale under the rows."""
    labels = "".join(
        f'<text x="{_x(t)}" y="13" text-anchor="{anchor}">{100 * t:.0f}{" %" * (t == 1)}</text>'
        for t, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end"))
    )
    return f'<svg width="100%" height="18" aria-hidden="true">{labels}</svg>'
