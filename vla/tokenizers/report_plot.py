"""Error against tokens as a picture: one named dot for each tokenizer, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 640, 400  # in user units
LEFT, RIGHT, TOP, BOTTOM = 66, 120, 40, 48
_LINE = 14  # height of a line of text
_STYLE = """
.grid { stroke: #e0e3e6; }
.dot { fill: #2260c4; stroke: #ffffff; stroke-width: 1.5; }
.leader { stroke: #9aa4b0; }
text { fill: #5a6675; font: 12px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.name { fill: #18212c; paint-order: stroke; stroke: #ffffff; stroke-width: 4; }
.title { fill: #18212c; font-weight: 650; font-size: 13.5px; }
"""


class _Axis:
    """A logarithmic axis from `start` to `stop`, in user units, that holds all values."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.06 * (high - low), 0.1)
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten, or powers of ten alone where there are many."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 2.5 else (1,)
        found = [step * 10.0**decade for decade in decades for step in steps]
        return [tick for tick in found if self.low <= math.log10(tick) <= self.high]


def scatter_svg(points: Sequence[tuple[str, float, float]], title: str, *, x: str, y: str) -> str:
    """An SVG file of (name, x, y) points with positive x; y of 0 is drawn at the least of the
    others."""
    least = min((value for _, _, value in points if value > 0), default=1.0)
    shown = [(name, max(across, 1e-9), max(up, least)) for name, across, up in points]
    x_axis = _Axis([p[1] for p in shown] or [1.0], LEFT, WIDTH - RIGHT)
    y_axis = _Axis([p[2] for p in shown] or [1.0], HEIGHT - BOTTOM, TOP)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    parts.append(f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>')
    for tick in x_axis.ticks():
        at = x_axis(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{tick:g}</text>')
    for tick in y_axis.ticks():
        at = y_axis(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x)}</text>'
    )
    parts.append(
        f'<text transform="translate(16 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )
    parts += _names([(name, x_axis(across), y_axis(up)) for name, across, up in shown])
    body = "\n".join(parts)
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{_STYLE}</style>\n{body}\n</svg>\n'


def _names(dots: Sequence[tuple[str, float, float]]) -> list[str]:
    """Dots with their names to the right, moved down where they would hide each other."""
    placed: list[tuple[float, float]] = []
    parts = []
    for name, x, y in sorted(dots, key=lambda dot: dot[2]):
        at = y
        while any(
            abs(at - other_y) < _LINE and abs(x - other_x) < 110 for other_x, other_y in placed
        ):
            at += 1
        placed.append((x, at))
        if at - y > 3:
            parts.append(
                f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{x + 10:.1f}" y2="{at:.1f}"/>'
            )
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        parts.append(f'<text class="name" x="{x + 12:.1f}" y="{at + 4:.1f}">{escape(name)}</text>')
    return parts


__all__ = ["scatter_svg"]
