"""Pieces of HTML that the parts of the page are made of. All text that comes in is escaped here, or marked as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from vla.data.view.plots import number


@dataclass(frozen=True)
class Html:
    """Text that is HTML already."""

    text: str


Value = str | int | float | Html | None
"""What a cell may hold: text, a number, HTML; None where there is nothing."""


@dataclass(frozen=True)
class Column:
    """Head of a column. `kind` is text, number, rate (0 to 1, shown in per cent) or drawn."""

    title: str
    kind: str = "number"


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Value]],
    *,
    sortable: bool = True,
) -> str:
    """A table in a box of its own that scrolls where it is too large. The first cell of each row is its name."""
    body = "".join(_row(columns, row) for row in rows)
    head = "".join(_head(column, sortable) for column in columns)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table{' class=sortable' * sortable}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _head(column: Column, sortable: bool) -> str:
    css = f' class="{column.kind}"' if column.kind != "text" else ""
    if not sortable or column.kind == "drawn":
        return f'<th scope="col"{css}><span>{escape(column.title)}</span></th>'
    return f'<th scope="col"{css} aria-sort="none"><button type="button">{escape(column.title)}</button></th>'


def _row(columns: Sequence[Column], row: Sequence[Value]) -> str:
    cells = []
    for i, (column, value) in enumerate(zip(columns, row, strict=True)):
        tag = 'th scope="row"' if i == 0 else "td"
        css = f' class="{column.kind}"' if column.kind != "text" else ""
        sorting = f' data-value="{value:.9g}"' if isinstance(value, int | float) else ""
        cells.append(f"<{tag}{css}{sorting}>{_shown(value, column.kind)}</{tag[:2]}>")
    return f"<tr>{''.join(cells)}</tr>\n"


def _shown(value: Value, kind: str) -> str:
    if value is None:
        return '<span class="none">&ndash;</span>'
    if isinstance(value, Html):
        return value.text
    if isinstance(value, str):
        return escape(value)
    return (
        percent(value)
        if kind == "rate"
        else f"{value:,}"
        if isinstance(value, int)
        else number(value)
    )


def percent(rate: float) -> str:
    """In whole per cent; with a decimal where that would say none or all of what is only nearly so."""
    digits = 1 if 0 < rate < 0.01 or 0.99 < rate < 1 else 0
    return f"{100 * rate:.{digits}f}&#8239;%"


def facts(pairs: Iterable[tuple[str, Value]], css: str) -> str:
    """Names and values as a definition list."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{_shown(value, 'number')}</dd></div>\n"
        for name, value in pairs
    )
    return f'<dl class="{css}">\n{items}</dl>\n'


def counted(count: int, noun: str) -> str:
    """`1 episode`, `2 episodes`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
