"""Error against tokens as a picture: one named dot for each tokenizer, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vla.common.figures import (
    COLOURS,
    PAPER,
    axes_at,
    drawing,
    name_points,
    new_figure,
    svg_text,
)

if TYPE_CHECKING:
    from matplotlib.axis import Axis

WIDTH, HEIGHT = 640, 400  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 60, 40, 52


def scatter_svg(points: Sequence[tuple[str, float, float]], title: str, *, x: str, y: str) -> str:
    """An SVG file of (name, x, y) points, x > 0; a y of 0 is drawn at the least of the others."""
    # zero has no place on a logarithmic axis, but who loses nothing belongs in the picture, too
    least = min((value for _, _, value in points if value > 0), default=1.0)
    dots = [(max(across, 1e-9), max(up, least), name) for name, across, up in points]
    with drawing():
        figure = new_figure(WIDTH, HEIGHT)
        axes = axes_at(figure, _LEFT, _TOP, WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM)
        axes.set_title(title, pad=14)
        axes.set_xlabel(x, labelpad=8)
        axes.set_ylabel(y, labelpad=8)
        axes.loglog()
        axes.set_xlim(_limits([dot[0] for dot in dots] or [1.0]))
        axes.set_ylim(_limits([dot[1] for dot in dots] or [1.0]))
        _set_ticks(axes.xaxis)
        _set_ticks(axes.yaxis)
        tooltips = {}
        for i, (across, up, name) in enumerate(dots):
            tooltips[f"dot-{i}"] = name
            axes.plot(
                [across],
                [up],
                linestyle="none",
                marker="o",
                markersize=10,
                markerfacecolor=COLOURS[0],
                markeredgecolor=PAPER,
                markeredgewidth=1.5,
                gid=f"dot-{i}",
            )
        name_points(axes, dots)
        return svg_text(figure, title=title, tooltips=tooltips)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """All values, with room at both ends: at least a tenth of a decade, for they may be alike."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.06, 10**0.1)
    return low / room, high * room


def _set_ticks(axis: Axis) -> None:
    """At 1, 2 and 5 times powers of ten, printed as numbers; at powers alone if they are many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high / low < 300 else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    # by itself a short axis would print its minor ticks, too
    axis.set_minor_formatter(NullFormatter())
