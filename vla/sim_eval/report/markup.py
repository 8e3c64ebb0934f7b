"""Small pieces of HTML that all parts of the report are made of. What comes in as text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from vla.sim_eval.comparison.results import Results

COLOURS = 6  # classes p0 to p5 of the style sheet


@dataclass(frozen=True)
class Section:
    """A part of the page; without a body it is left out. `anchor` is what the page's index jumps to."""

    anchor: str
    title: str
    body: str
    note: str = ""

    def html(self) -> str:
        note = f'<p class="note">{escape(self.note)}</p>\n' if self.note else ""
        return f'<section id="{self.anchor}">\n<h2>{escape(self.title)}</h2>\n{note}{self.body}</section>\n'


@dataclass(frozen=True)
class Cell:
    """html: what is shown; value: what it is sorted by, None where there is nothing to sort."""

    html: str
    value: float | str | None = None
    css: str = ""


@dataclass(frozen=True)
class Head:
    """Head of a column; `numeric` columns are aligned to the right and sorted from the greatest down first."""

    text: str
    numeric: bool = True
    css: str = ""


NOTHING = Cell('<span class="none">&ndash;</span>', css="number")


def policy_class(index: int) -> str:
    return f"p{index % COLOURS}"


def percent(rate: float) -> str:
    return f"{100 * rate:.0f}&#8239;%"


def interval(bounds: Sequence[float]) -> str:
    """Two rates in per cent: 41-93."""
    return f"{100 * bounds[0]:.0f}&ndash;{100 * bounds[1]:.0f}"


def signed(number: float, digits: int = 0) -> str:
    """With a true minus sign; never "-0"."""
    text = f"{number:+.{digits}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "&minus;")


def mean_sd(values: dict[str, float]) -> str:
    return f"{values['mean']:.1f}&#8239;&plusmn;&#8239;{values['sd']:.1f}".replace("-", "&minus;")


def legend(columns: Sequence[Results]) -> str:
    """Which colour is whose; nothing where there is one policy."""
    if len(columns) < 2:
        return ""
    names = "".join(
        f'<span class="{policy_class(i)}"><i></i>{escape(r.policy)}</span>'
        for i, r in enumerate(columns)
    )
    return f'<div class="legend">{names}</div>\n'


def table(
    caption: str,
    heads: Sequence[Head],
    rows: Iterable[Sequence[Cell]],
    *,
    pinned: Iterable[Sequence[Cell]] = (),
) -> str:
    """A table whose rows the reader can sort; `pinned` rows stay on top. The first cell of a row is its name."""
    body, top = "".join(map(_row, rows)), "".join(map(_row, pinned))
    head = "".join(
        f'<th scope="col" class="{head.css}{" number" * head.numeric}" aria-sort="none">'
        f'<button type="button">{escape(head.text)}</button></th>'
        for head in heads
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="sortable">\n<thead><tr>{head}</tr></thead>\n'
        + (f'<tbody class="pinned">\n{top}</tbody>\n' if top else "")
        + f"<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _row(cells: Sequence[Cell]) -> str:
    first, *rest = cells
    return f'<tr><th scope="row"{_data(first)}>{first.html}</th>{"".join(map(_cell, rest))}</tr>\n'


def _cell(cell: Cell) -> str:
    css = f' class="{cell.css}"' if cell.css else ""
    return f"<td{css}{_data(cell)}>{cell.html}</td>"


def _data(cell: Cell) -> str:
    return "" if cell.value is None else f' data-value="{escape(_plain(cell.value))}"'


def _plain(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
