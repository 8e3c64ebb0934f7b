"""Tables and lists of facts as data: what their cells say. `parts.html.j2` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla.common.printing.number_text import number, percent

Value = str | int | float | Markup
"""What a cell may hold: text, a number, or HTML."""


@dataclass(frozen=True)
class Column:
    """Head of a column. `kind` is text, number, rate (0 to 1, shown in per cent) or drawn."""

    title: str
    kind: str = "number"

    def text(self, value: Value) -> str:
        if self.kind == "rate":
            return rate_text(float(value))
        return value_text(value)


@dataclass(frozen=True)
class Table:
    """The first cell of each row is its name."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]


def value_text(value: Value) -> str:
    """How a fact is printed; texts as they are."""
    # `Markup` is a text, too, and stays HTML
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else number(value)


def rate_text(rate: float) -> str:
    """In whole per cent; with a decimal if they would say none or all of what is only nearly so."""
    is_nearly_whole = 0 < rate < 0.01 or 0.99 < rate < 1
    return percent(rate, digits=1 if is_nearly_whole else 0)
