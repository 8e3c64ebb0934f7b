"""Tables in which no word and no name is broken, however narrow the terminal is."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from vla.common.terminal.visible_console import visible

_LONGEST_RULE = 80
UNLIMITED = 1_000_000
"""A width in columns that no table reaches."""


class Table(RichTable):
    """A table of texts, as wide as it needs to be.

    Columns that are not `no_wrap` are broken between words until the table fits the console. If it
    does not fit even then, its rows stand below each other, a line for each cell with the column's
    head before it. Where lines are not wrapped (`soft_wrap`, as in a pipe) nothing is broken at
    all.

    Cells and heads are plain: brackets in a name are no styles. Give a `Text` for a style.
    """

    def __init__(self, *heads: Column | str, **options: Any) -> None:
        # little more than the texts: the width is for them
        slim: dict[str, Any] = {
            "box": SIMPLE_HEAD,
            "show_edge": False,
            "pad_edge": False,
            "padding": (0, 1, 0, 0),
        }
        super().__init__(*heads, **(slim | options))

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_plain, cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # not by rich, which would wrap them at the table's width: a narrow table, a broken name
        if self.title or self.show_header:
            yield ""
        if self.title:
            yield _annotation(self.title, "table.title")
        yield from self._body(console, options)
        if self.caption:
            yield _annotation(self.caption, "table.caption")

    def _body(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least, wanted = self._content_widths(console, options)
        # so `print(..., soft_wrap=True)` says that lines may be longer than the console
        if options.overflow == "ignore":
            yield from self._lines()
            return
        whole = self._with_widths(wanted)
        width = Measurement.get(console, options.update_width(UNLIMITED), whole).maximum
        room = options.max_width - (width - sum(wanted))
        if sum(least) > room:
            yield from self._blocks()
            return
        widths = share_room(least, wanted, room)
        narrowed = options.update_width(width - sum(wanted) + sum(widths))
        yield from super(Table, self._with_widths(widths)).__rich_console__(console, narrowed)

    def _content_widths(
        self, console: Console, options: ConsoleOptions
    ) -> tuple[list[int], list[int]]:
        """Width of each column without borders: with all breaks between words, and with none."""
        unlimited = options.update_width(UNLIMITED)
        least, wanted = [], []
        for column in self.columns:
            texts = [*column.cells]
            if self.show_header:
                texts.append(_plain(column.header))
            found = [Measurement.get(console, unlimited, text) for text in texts]
            longest_line = max([1, *(measured.maximum for measured in found)])
            longest_word = max([1, *(measured.minimum for measured in found)])
            wanted.append(longest_line)
            least.append(longest_line if column.no_wrap else longest_word)
        return least, wanted

    def _with_widths(self, widths: Sequence[int]) -> Table:
        """The same table with these widths; this one may be printed on another console, too."""
        fixed = copy.copy(self)
        fixed.columns = []
        for column, width in zip(self.columns, widths, strict=True):
            head = _plain(column.header)
            fixed.columns.append(dataclasses.replace(column, header=head, width=width))
        fixed.title = fixed.caption = None
        return fixed

    def _lines(self) -> Iterator[Text]:
        """A line for each row, without the spaces behind its last cell that only a screen needs.

        What is broken to be narrow is joined again.
        """
        rows = [list(cells) for cells in zip(*(c.cells for c in self.columns), strict=True)]
        if self.show_header:
            rows.insert(0, [_plain(str(column.header)) for column in self.columns])
        rows = [[_joined(cell) for cell in cells] for cells in rows]
        widths = [max(cell.cell_len for cell in cells) for cells in zip(*rows, strict=True)]
        for number, cells in enumerate(rows):
            line = Text()
            for column, cell, width in zip(self.columns, cells, widths, strict=True):
                cell.align("right" if column.justify == "right" else "left", width)
                line.append_text(cell).append("  ")
            line.rstrip()
            yield line
            if self.show_header and not number:
                yield Text("─" * min(_LONGEST_RULE, sum(widths) + 2 * (len(widths) - 1)))

    def _blocks(self) -> Iterator[Any]:
        """The rows below each other: the first cell, then a line for each of the others."""
        heads = [" ".join(str(column.header).split()) for column in self.columns]
        rows = zip(*(column.cells for column in self.columns), strict=True)
        for number, (name, *cells) in enumerate(rows):
            if number:
                yield ""
            yield Text.assemble(name, style="bold")
            lines = RichTable.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1))
            for head, cell in zip(heads[1:], cells, strict=True):
                if str(cell):
                    lines.add_row(f"  {head}" if self.show_header else "", cell)
            yield lines


def share_room(least: Sequence[int], wanted: Sequence[int], room: int) -> list[int]:
    """Widths between `least` and `wanted`, whose sum is at most `room`.

    Columns that want little more than the least get all of it; what is left is shared evenly.
    """
    widths = list(least)
    spare = room - sum(least)
    modest_first = sorted(range(len(widths)), key=lambda column: wanted[column] - least[column])
    for place, column in enumerate(modest_first):
        share = spare // (len(widths) - place)
        more = min(wanted[column] - least[column], share)
        widths[column] += more
        spare -= more
    return widths


def whole(*heads: str, **options: Any) -> list[Column]:
    """Columns whose cells stay on one line, such as names and numbers."""
    return [Column(head, no_wrap=True, **options) for head in heads]


def _plain(text: Any) -> Any:
    # control characters are shown before the widths are measured
    return Text(visible(text)) if isinstance(text, str) else text


def _joined(cell: Any) -> Text:
    """A cell in one line; always a copy."""
    text = cell if isinstance(cell, Text) else Text(str(cell))
    return Text(" ").join(text.split("\n")) if "\n" in text.plain else text.copy()


def _annotation(text: Any, style: str) -> Text:
    return Text(text, style=style) if isinstance(text, str) else text


__all__ = ["Column", "Table", "share_room", "whole"]
