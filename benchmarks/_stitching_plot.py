"""The picture of `stitching.py`: recordings, where every policy goes, and how often it arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from vla.sim_eval.envs.stitch import GOAL, GOAL_RADIUS, MAP, START, wall_cells

CELL, EDGE, GAP, TOP, BARS = 42, 6, 18, 30, 230
WIDE, HIGH = len(MAP[0]) * CELL + 2 * EDGE, len(MAP) * CELL + 2 * EDGE
COLUMNS = 4
HALF_COLORS = {"up": "#8a94a3", "back": "#d0782a", "in": "#2260c4"}
HALF_TITLES = {"up": "most from S", "back": "some from S", "in": "from elsewhere"}
GOOD, BAD = "#1f7a4d", "#b4443c"
STYLE = """
text { fill: #5a6675; font: 12px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.title { fill: #18212c; font-weight: 650; font-size: 13px; }
.wall { fill: #dde1e6; }
.frame { fill: none; stroke: #dde1e6; }
.way { fill: none; stroke-width: 1.2; stroke-opacity: 0.55; stroke-linejoin: round; }
.letter { fill: #18212c; font-weight: 650; text-anchor: middle; paint-order: stroke; stroke: #ffffff; stroke-width: 3; }
.grid { stroke: #e0e3e6; }
.interval { stroke: #18212c; stroke-width: 1.5; }
"""


def picture(
    recorded: Mapping[str, Sequence[np.ndarray]],
    paths: Mapping[str, Sequence[np.ndarray]],
    titles: Mapping[str, str],
    found: Mapping[str, dict[str, Any]],
) -> str:
    """SVG: one panel with the recordings by half, one per policy with its paths, and the rates with their intervals.

    Args:
        recorded, paths: positions (T, 2).
        found: for each policy successes, episodes and interval.
    """
    panels = [
        _panel(
            "Recordings",
            [(HALF_COLORS[half], way) for half, ways in recorded.items() for way in ways],
        )
    ]
    for name, ways in paths.items():
        rate = found[name]["successes"] / found[name]["episodes"]
        drawn = [(GOOD if _arrived(way) else BAD, way) for way in ways]
        panels.append(_panel(f"{titles[name]}: {100 * rate:.0f} %", drawn))
    rows = -(-len(panels) // COLUMNS)
    body = [
        f'<g transform="translate({6 + (i % COLUMNS) * (WIDE + GAP)},{(i // COLUMNS) * (HIGH + TOP + 12)})">{panel}</g>'
        for i, panel in enumerate(panels)
    ]
    left, height = COLUMNS * (WIDE + GAP) + 14, rows * (HIGH + TOP + 12)
    body += [_legend(height + 4), f'<g transform="translate({left},0)">{_rates(titles, found)}</g>']
    size = f'width="{left + BARS}" height="{height + 20}" viewBox="0 0 {left + BARS} {height + 20}"'
    inner = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{STYLE}</style>\n'
        f'<rect width="{left + BARS}" height="{height + 20}" fill="#ffffff"/>\n{inner}\n</svg>\n'
    )


def _arrived(way: np.ndarray) -> bool:
    return bool(np.hypot(*(way[-1] - np.asarray(GOAL))) < GOAL_RADIUS)


def _at(x: float, y: float) -> tuple[float, float]:
    return EDGE + (x + 0.5) * CELL, TOP + EDGE + (len(MAP) - 0.5 - y) * CELL


def _panel(title: str, ways: Sequence[tuple[str, np.ndarray]]) -> str:
    parts = [f'<text class="title" x="0" y="20">{escape(title)}</text>']
    parts.append(
        f'<rect class="frame" x="{EDGE / 2}" y="{TOP + EDGE / 2}" width="{WIDE - EDGE}" height="{HIGH - EDGE}" '
        f'stroke-width="{EDGE}"/>'
    )
    for x, y in wall_cells():
        if 0 <= x < len(MAP[0]) and 0 <= y < len(MAP):
            left, top = (coordinate - CELL / 2 for coordinate in _at(x, y))
            parts.append(
                f'<rect class="wall" x="{left}" y="{top}" width="{CELL}" height="{CELL}"/>'
            )
    gx, gy = _at(*GOAL)
    parts.append(f'<circle cx="{gx}" cy="{gy}" r="{GOAL_RADIUS * CELL}" fill="#cfe8d5"/>')
    for color, way in ways:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_at(*place) for place in way))
        parts.append(f'<polyline class="way" stroke="{color}" points="{points}"/>')
    for letter, cell in (("S", START), ("G", GOAL)):
        left, top = _at(*cell)
        parts.append(f'<text class="letter" x="{left}" y="{top + 4}">{letter}</text>')
    return "".join(parts)


def _legend(y: float) -> str:
    parts, x = [], 6
    for half, color in HALF_COLORS.items():
        parts.append(
            f'<line x1="{x}" y1="{y}" x2="{x + 18}" y2="{y}" stroke="{color}" stroke-width="2.5"/>'
        )
        parts.append(f'<text x="{x + 24}" y="{y + 4}">{HALF_TITLES[half]}</text>')
        x += 130
    for text, color in (("policy arrives", GOOD), ("policy does not", BAD)):
        parts.append(
            f'<line x1="{x}" y1="{y}" x2="{x + 18}" y2="{y}" stroke="{color}" stroke-width="2.5"/>'
        )
        parts.append(f'<text x="{x + 24}" y="{y + 4}">{text}</text>')
        x += 130
    return "".join(parts)


def _rates(titles: Mapping[str, str], found: Mapping[str, dict[str, Any]]) -> str:
    """Bars with their 95 % intervals, one below the other."""
    wide = BARS - 20
    parts = ['<text class="title" x="0" y="20">Episodes solved</text>']
    for i, (name, result) in enumerate(found.items()):
        y, rate = 40 + 46 * i, result["successes"] / result["episodes"]
        low, high = result["interval"]
        parts.append(f'<text x="0" y="{y}">{escape(titles[name])}</text>')
        parts.append(
            f'<text x="{wide}" y="{y}" text-anchor="end">{result["successes"]} of {result["episodes"]}</text>'
        )
        parts.append(f'<rect class="wall" x="0" y="{y + 6}" width="{wide}" height="12"/>')
        parts.append(
            f'<rect x="0" y="{y + 6}" width="{wide * rate:.1f}" height="12" fill="{GOOD}"/>'
        )
        parts.append(
            f'<line class="interval" x1="{wide * low:.1f}" x2="{wide * high:.1f}" y1="{y + 12}" y2="{y + 12}"/>'
        )
    return "".join(parts)


__all__ = ["picture"]
