"""Values against what is true of them, as a picture: named dots on linear axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vla.common.figures import (
    COLOURS,
    PAPER,
    QUIET,
    axes_at,
    drawing,
    name_points,
    new_figure,
    svg_text,
)

WIDTH, HEIGHT = 680, 420  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 24, 56, 54

Dot = tuple[float, float, str]
"""x, y, and a name, which may be empty."""


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
    legends = [legend for legend in groups if legend]
    with drawing():
        figure = new_figure(WIDTH, HEIGHT)
        axes = axes_at(figure, _LEFT, _TOP, WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM)
        axes.set_title(title, pad=24)
        axes.set_xlabel(x, labelpad=8)
        axes.set_ylabel(y, labelpad=8)
        axes.set_xlim(_limits([dot[0] for dot in dots]))
        axes.set_ylim(_limits([dot[1] for dot in dots]))
        for i, (legend, group) in enumerate(groups.items()):
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(
                [dot[0] for dot in group],
                [dot[1] for dot in group],
                color=colour,
                linestyle="-" if connect else "none",
                linewidth=2,
                marker="o",
                markersize=9,
                markerfacecolor=colour,
                markeredgecolor=PAPER,
                markeredgewidth=1.5,
                label=legend,
            )
        if diagonal:
            # below the dots, which say how much of it is shown: limits are set already
            axes.axline((0, 0), slope=1, color=QUIET, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
        if legends:
            # between title and axes, where no dot can be
            axes.legend(
                ncols=len(legends), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0
            )
        # last, for limits and scales decide where the dots are
        name_points(axes, dots)
        return svg_text(figure, title=title)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """All values, with room beside the least and the greatest."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * max(abs(high), 1.0)
    return low - room, high + room
