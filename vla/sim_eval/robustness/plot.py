"""Success under perturbations as pictures: a panel for each kind, success against severity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vla.common.figures import (
    COLOURS,
    PAPER,
    QUIET,
    axes_at,
    drawing,
    new_figure,
    svg_text,
)
from vla.sim_eval.perturbations import describe
from vla.sim_eval.robustness.table import Condition, Robustness, p_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_COLUMNS = 4
_WIDTH, _HEIGHT = 190, 152  # of a panel, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 26, 26
_COLOUR = COLOURS[0]

Found = Mapping[int, Condition]
"""Severity -> condition of one kind."""


def robustness_svg(robustness: Robustness) -> str:
    """All panels as one SVG that stands alone; without panels if only controls were played."""
    kinds = robustness.kinds
    columns = min(PANEL_COLUMNS, max(len(kinds), 1))
    rows = max(-(-len(kinds) // PANEL_COLUMNS), 1)
    tooltips: dict[str, str] = {}
    with drawing():
        figure = new_figure(_WIDTH * columns, _HEIGHT * rows)
        for i, (kind, found) in enumerate(kinds.items()):
            row, column = divmod(i, columns)
            axes = _panel_axes(figure, _WIDTH * column, _HEIGHT * row)
            tooltips |= _draw_panel(axes, kind, robustness.clean, found)
        title = f"Success of {robustness.policy} on {robustness.suite} against severity, per cent"
        return svg_text(figure, title=title, tooltips=tooltips)


def panel_svg(kind: str, clean: Condition, found: Found) -> str:
    """One kind's panel for a page that holds `vla.common.figures.style_sheet()`."""
    with drawing():
        figure = new_figure(_WIDTH, _HEIGHT)
        tooltips = _draw_panel(_panel_axes(figure, 0, 0), kind, clean, found)
        title = f"{kind}: {describe(kind)}"
        return svg_text(figure, title=title, tooltips=tooltips, standalone=False)


def _panel_axes(figure: Figure, left: float, top: float) -> Axes:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return axes_at(figure, left + _LEFT, top + _TOP, width, height)


def _draw_panel(axes: Axes, kind: str, clean: Condition, found: Found) -> dict[str, str]:
    """Draws one kind, the clean condition at severity 0; hollow dots do not differ from it.

    Returns the name of each mark -> what is to be shown when the pointer is over it.
    """
    points = {0: clean, **dict(sorted(found.items()))}
    axes.set_title(kind.replace("_", " "), size=12.5, pad=6)
    axes.set_xlim(-0.4, 3.4)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.set_xticks(list(points))
    axes.set_xticklabels([str(severity) if severity else "clean" for severity in points])
    axes.tick_params(labelsize=11)
    axes.tick_params(axis="x", pad=8)  # below the dots of rates of 0
    axes.grid(visible=False, axis="x")
    # the range in which a rate says nothing against the clean one
    low, high = clean.interval
    axes.axhspan(100 * low, 100 * high, color=_COLOUR, alpha=0.1, linewidth=0)
    rates = [100 * condition.rate for condition in points.values()]
    axes.plot(list(points), rates, color=_COLOUR, linewidth=2, clip_on=False)
    tooltips: dict[str, str] = {}
    for severity, condition in points.items():
        # with the kind, since several panels share one figure
        name = f"{kind}-{severity}"
        _draw_mark(axes, name, severity, condition)
        text = _tooltip(severity, condition)
        tooltips |= {f"{name}-interval": text, f"{name}-rate": text}
    return tooltips


def _draw_mark(axes: Axes, name: str, severity: int, condition: Condition) -> None:
    colour = _COLOUR if severity else QUIET
    is_filled = condition.differs or severity == 0
    low, high = condition.interval
    axes.plot(
        [severity, severity],
        [100 * low, 100 * high],
        color=_COLOUR,
        alpha=0.35,
        linewidth=4,
        solid_capstyle="round",
        clip_on=False,
        gid=f"{name}-interval",
    )
    axes.plot(
        [severity],
        [100 * condition.rate],
        linestyle="none",
        marker="o",
        markersize=8,
        markeredgewidth=2,
        markeredgecolor=colour,
        markerfacecolor=colour if is_filled else PAPER,
        # rates of 0 and 100 lie on the edge of the panel
        clip_on=False,
        zorder=3,
        gid=f"{name}-rate",
    )


def _tooltip(severity: int, condition: Condition) -> str:
    low, high = condition.interval
    counts = f"{condition.successes}/{condition.episodes}"
    text = f"{counts}, 95 % interval {100 * low:.0f} to {100 * high:.0f} %"
    if severity == 0:
        return text
    described = describe(condition.kind, severity)
    return f"{described}: {text}, adjusted p {p_text(condition.p_adjusted)}"
