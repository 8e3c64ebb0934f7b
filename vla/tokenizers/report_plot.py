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
    """An SVG file of (name, x, y) points with positive x; y of 0 is drawn at the least of the others."""
    # zero has no place on a logarithmic axis, but tokenizers that lose nothing belong into the picture
    least = min((value for _, _, value in points if value > 0), default=1.0)
    dots = [(max(across, 1e-9), max(up, least), name) for name, across, up in points]
    with drawing():
        figure = new_figure(WIDTH, HEIGHT)
        axes = axes_at(figure, _LEFT, _TOP, WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM)
        axes.set_title(title, pad=14)
        axes.set_xlabel(x, labelpad=8)
        axes.set_ylabel(y, labelpad=8)
        axes.loglog()
        _scale(axes.xaxis, [dot[0] for dot in dots] or [1.0])
        _scale(axes.yaxis, [dot[1] for dot in dots] or [1.0])
        for i, (across, up, _) in enumerate(dots):
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
        tooltips = {f"dot-{i}": name for i, (_, _, name) in enumerate(dots)}
        return svg_text(figure, title=title, tooltips=tooltips)


def _scale(axis: Axis, values: Sequence[float]) -> None:
    """Limits around all values, with ticks that are printed as numbers, not as powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ratio = max(values) / min(values)
    # at least a quarter of a decade, also where all values are alike
    room = max(ratio**0.06, 10**0.1)
    axis.axes.set(**{f"{axis.axis_name}lim": (min(values) / room, max(values) * room)})
    # 1, 2 and 5 times powers of ten, or powers of ten alone where they are many
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 300 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axis.set_minor_formatter(NullFormatter())
