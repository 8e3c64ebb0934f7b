"""The picture of `stitching.py`: recordings, where every policy goes, and how often it arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vla.common.figures import (
    BAD,
    COLOURS,
    GOOD,
    INK,
    LINE,
    QUIET,
    axes_at,
    drawing,
    new_figure,
    svg_text,
)
from vla.sim_eval.envs.stitch import GOAL, GOAL_RADIUS, MAP, START, wall_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
HALF_COLOURS = {"up": QUIET, "back": COLOURS[1], "in": COLOURS[0]}
HALF_TITLES = {"up": "most from S", "back": "some from S", "in": "from elsewhere"}
_CELL = 43  # pixels of a cell of the maze; all lengths below are pixels, too
_PANEL_WIDTH, _PANEL_HEIGHT = _CELL * len(MAP[0]), _CELL * len(MAP)
_GAP, _TITLE, _LEGEND, _BARS, _BAR_STEP = 24, 36, 30, 216, 46

Path = tuple[str, np.ndarray]
"""Colour, and positions (T, 2) in cells."""


def picture(
    recorded: Mapping[str, Sequence[np.ndarray]],
    paths: Mapping[str, Sequence[np.ndarray]],
    titles: Mapping[str, str],
    found: Mapping[str, dict[str, Any]],
) -> str:
    """SVG: a panel with the recordings by half, one per policy with its paths, and the rates.

    Args:
        recorded, paths: positions (T, 2).
        found: for each policy successes, episodes and interval.
    """
    panels: list[tuple[str, list[Path]]] = [("Recordings", [])]
    for half, ways in recorded.items():
        colour = HALF_COLOURS[half]
        panels[0][1].extend((colour, way) for way in ways)
    for name, ways in paths.items():
        rate = found[name]["successes"] / found[name]["episodes"]
        drawn = []
        for way in ways:
            colour = GOOD if _arrived(way) else BAD
            drawn.append((colour, way))
        panels.append((f"{titles[name]}: {100 * rate:.0f} %", drawn))
    across = _PANEL_WIDTH + _GAP
    down = _PANEL_HEIGHT + _TITLE
    rows = -(-len(panels) // COLUMNS)  # rounded up
    height = down * rows
    bars_left = COLUMNS * across + _GAP
    with drawing():
        figure = new_figure(bars_left + _BARS + 8, height + _LEGEND)
        for i, (title, drawn) in enumerate(panels):
            row, column = divmod(i, COLUMNS)
            left, top = _GAP / 2 + column * across, _TITLE + row * down
            maze = axes_at(figure, left, top, _PANEL_WIDTH, _PANEL_HEIGHT)
            _draw_maze(maze, title, drawn)
        bars = axes_at(figure, bars_left, _TITLE, _BARS, _BAR_STEP * len(found))
        _draw_rates(bars, titles, found)
        _draw_legend(figure)
        return svg_text(figure, title="Recordings, paths of the policies, episodes solved")


def _arrived(way: np.ndarray) -> bool:
    from_goal = way[-1] - np.asarray(GOAL)
    return bool(np.hypot(*from_goal) < GOAL_RADIUS)


def _draw_maze(axes: Axes, title: str, ways: Sequence[Path]) -> None:
    from matplotlib.patches import Circle, Rectangle

    axes.set_title(title, size=12.5, pad=9)
    # positions are in cells, whose middles are whole numbers
    axes.set_xlim(-0.5, len(MAP[0]) - 0.5)
    axes.set_ylim(-0.5, len(MAP) - 0.5)
    axes.set(xticks=[], yticks=[])
    # the wall around the maze; half of the line lies inside of the axes
    axes.spines[:].set(visible=True, linewidth=6)
    for x, y in wall_cells():
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=LINE, linewidth=0))
    axes.add_patch(Circle(GOAL, GOAL_RADIUS, color=GOOD, alpha=0.25, linewidth=0))
    for colour, way in ways:
        axes.plot(way[:, 0], way[:, 1], color=colour, alpha=0.55, linewidth=1.2)
    for letter, cell in (("S", START), ("G", GOAL)):
        axes.text(*cell, letter, color=INK, weight="bold", ha="center", va="center", zorder=4)


def _draw_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    colours = {HALF_TITLES[half]: colour for half, colour in HALF_COLOURS.items()}
    colours |= {"policy arrives": GOOD, "policy does not": BAD}
    lines = [Line2D([], [], color=colour, linewidth=2.5) for colour in colours.values()]
    figure.legend(lines, list(colours), loc="lower left", ncols=len(lines), borderaxespad=0.2)


def _draw_rates(axes: Axes, titles: Mapping[str, str], found: Mapping[str, dict[str, Any]]) -> None:
    """Bars with their 95 % intervals, one below the other."""
    axes.set_title("Episodes solved", size=13, pad=9)
    # the first policy on top: the axis points down, in steps of one policy
    axes.set(xlim=(0, 1), ylim=(len(found), 0), xticks=[], yticks=[])
    for i, (name, result) in enumerate(found.items()):
        successes, episodes = result["successes"], result["episodes"]
        middle = i + 0.65  # of the bar; the words stand above
        axes.text(0, i + 0.42, titles[name])
        axes.text(1, i + 0.42, f"{successes} of {episodes}", ha="right")
        axes.barh(middle, 1, height=0.26, color=LINE)
        axes.barh(middle, successes / episodes, height=0.26, color=GOOD)
        axes.plot(result["interval"], [middle, middle], color=INK, linewidth=1.5)


__all__ = ["picture"]
