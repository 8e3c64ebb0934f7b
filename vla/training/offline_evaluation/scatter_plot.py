"""Values against what is true of them, as a picture: named dots on linear axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 680, 420  # in user units
CHARACTER = 6.2  # width of one in a name
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 56, 50
COLOURS = ("#2260c4", "#c2571a", "#2b8a5a", "#8a4bb0")
_STYLE = """
.grid { stroke: #e0e3e6; }
.equal { stroke: #9aa4b0; stroke-dasharray: 4 4; }
.path { fill: none; stroke-width: 2; stroke-linejoin: round; opacity: 0.5; }
circle { stroke: #ffffff; stroke-width: 1.5; }
text { fill: #5a6675; font: 12px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.name { fill: #18212c; paint-order: stroke; stroke: #ffffff; stroke-width: 3; font-size: 11px; }
.title { fill: #18212c; font-weight: 650; font-size: 13.5px; }
"""
Dot = tuple[float, float, str]
"""x, y, and a name, which may be empty."""


class _Axis:
    """From numbers to user units, with round ticks."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or max(abs(high), 1.0) * 0.1
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten, about five of them."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        return [
            i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        ]


def dots_svg(
    groups: Mapping[str, Sequence[Dot]],
    title: str,
    *,
    x: str,
    y: str,
    connect: bool = False,
    diagonal: bool = False,
) -> str:
    """An SVG file of dots.

    Args:
        groups: legend -> dots, at least one in all.
        x, y: names of the axes.
        connect: draw a line through the dots of a group.
        diagonal: draw the line on which x and y are equal.
    """
    dots = [dot for group in groups.values() for dot in group]
    x_axis = _Axis([d[0] for d in dots], LEFT, WIDTH - RIGHT)
    y_axis = _Axis([d[1] for d in dots], HEIGHT - BOTTOM, TOP)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    parts.append(f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>')
    for tick in x_axis.ticks():
        at = x_axis(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{tick:.4g}</text>')
    for tick in y_axis.ticks():
        at = y_axis(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    low, high = max(x_axis.low, y_axis.low), min(x_axis.high, y_axis.high)
    if diagonal and low < high:
        ends = f'x1="{x_axis(low):.1f}" y1="{y_axis(low):.1f}" x2="{x_axis(high):.1f}" y2="{y_axis(high):.1f}"'
        parts.append(f'<line class="equal" {ends}/>')
    for number, (legend, group) in enumerate(groups.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [(x_axis(across), y_axis(up), name) for across, up, name in group]
        if connect:
            points = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in placed)
            parts.append(f'<polyline class="path" stroke="{colour}" points="{points}"/>')
        parts += [
            f'<circle fill="{colour}" cx="{px:.1f}" cy="{py:.1f}" r="4.5"/>' for px, py, _ in placed
        ]
        if legend:
            parts.append(
                f'<circle fill="{colour}" cx="{LEFT + 6 + 130 * number}" cy="38" r="4.5"/>'
            )
            parts.append(f'<text x="{LEFT + 16 + 130 * number}" y="42">{escape(legend)}</text>')
    parts += _names([(x_axis(across), y_axis(up), name) for across, up, name in dots], right)
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x)}</text>'
    )
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )
    body = "\n".join(part for part in parts if part)
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{_STYLE}</style>\n{body}\n</svg>\n'


def _names(placed: Sequence[tuple[float, float, str]], right: float) -> list[str]:
    """Each dot's name beside it, on the first side where it covers no other dot or name; above where there is none."""
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py, _ in placed]
    texts = []
    for px, py, name in placed:
        if not name:
            continue
        wide = CHARACTER * len(name)
        sides = [
            (px + 8, py + 4),
            (px - 8 - wide, py + 4),
            (px - wide / 2, py - 8),
            (px - wide / 2, py + 17),
        ]
        boxes = [(x, y - 10, x + wide, y + 3) for x, y in sides]
        free = [
            box
            for box in boxes
            if box[2] <= right + RIGHT and not any(_overlap(box, other) for other in taken)
        ]
        box = (free or boxes[2:3])[0]
        taken.append(box)
        texts.append(
            f'<text class="name" x="{box[0]:.1f}" y="{box[1] + 10:.1f}">{escape(name)}</text>'
        )
    return texts


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


__all__ = ["Dot", "dots_svg"]
