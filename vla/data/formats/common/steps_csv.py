"""The `steps.csv` of an episode: a header, then a row of numbers for each step.

L: steps of the episode.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.common.files import read_text

MOST_COLUMNS = 4096
"""More than any robot has dimensions."""
TIME = "timestamp"
"""The column of times: numbers, or dates and times."""
_TRUTH = {"true": 1.0, "false": 0.0}
"""As pandas and spreadsheets write booleans."""


def read_steps(root: Path, path: Path, words: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Column -> float64 (L,), or texts (L,) for the columns that `words` names. L is 0 of a header
    alone. A first column without a name that counts the rows, as pandas writes it, is left out.

    Raises DataError naming file, line and column of what is no number.
    """
    written = read_text(root, path)
    check_separator(path, written)
    rows = csv.reader(io.StringIO(written, newline=""), strict=True)
    try:
        lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows if row]
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: {error}; correct the file") from error
    if not lines:
        raise DataError(
            f"{path}: is empty, expected a header and a row for each step; restore the file, or "
            f"leave the episode out (`mv {path} {path}.empty`)"
        )
    lines[0][1][0] = lines[0][1][0].removeprefix("\ufeff")
    if _has_row_numbers([cells for _, cells in lines]):
        lines = [(line, cells[1:]) for line, cells in lines]
    header = lines[0][1]
    if len(header) > MOST_COLUMNS:
        raise DataError(
            f"{path}: has {len(header)} columns, expected at most {MOST_COLUMNS}; store what is no "
            "state and no action elsewhere"
        )
    counts = Counter(header)
    for column, name in enumerate(header):
        if not name:
            raise DataError(f"{path}: column {column + 1} has no name; name it in the header")
        if counts[name] > 1:
            raise DataError(f"{path}: two columns are named {name!r}; correct the header")
    table = np.zeros((len(lines) - 1, len(header)))  # (L, columns)
    for row, (line, cells) in enumerate(lines[1:]):
        if len(cells) != len(header):
            raise DataError(
                f"{path}: line {line} has {len(cells)} cells, the header {len(header)}"
                f"{_hint(len(cells), len(header))}; correct the line"
            )
        for column, cell in enumerate(cells):
            if header[column] in words:
                continue
            where = f"{path}: line {line}, column {header[column]!r}"
            is_time = header[column] == TIME
            table[row, column] = (_clock_time(cell) if is_time else None) or _number(cell, where)
    found: dict[str, np.ndarray] = dict(zip(header, table.T, strict=True))
    for name in set(words) & set(header):
        found[name] = np.array([cells[header.index(name)] for _, cells in lines[1:]])
    return found


def _has_row_numbers(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first column is the index that pandas writes unless it is asked not to."""
    header, *steps = rows
    if header[0] or len(header) < 2 or not steps:
        return False
    return all(cells[0] == str(row) for row, cells in enumerate(steps))


def _clock_time(cell: str) -> float | None:
    """Seconds of a date and time (`2024-05-01 12:00:00.05`); None if the cell is none."""
    # a plain number is no date, though 20240501 would be taken for one
    if not ("-" in cell[1:] and ":" in cell):
        return None
    try:
        found = datetime.fromisoformat(cell)
    except ValueError:
        return None
    # without a zone all are of one, which one does not matter
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _hint(cells: int, names: int) -> str:
    # 0,5 of a program that writes decimal commas is two cells
    return " (decimals are written with a point, not a comma)" if cells == 2 * names else ""


def check_separator(path: Path, words: str) -> None:
    """Raises DataError if cells are divided as spreadsheets do it where numbers have decimal
    commas."""
    header = words.split("\n", 1)[0]
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if separator in header and "," not in header:
            raise DataError(
                f"{path}: its cells are divided by {name}, expected commas, and points in "
                "numbers (0.5): save it as CSV with commas, decimals with points"
            )


def _number(cell: str, where: str) -> float:
    if cell.lower() in _TRUTH:
        return _TRUTH[cell.lower()]
    if not cell:
        raise DataError(
            f"{where}: the cell is empty, as pandas writes NaN; fill it, or leave the episode out"
        )
    try:
        if "_" in cell:  # Python's own float takes 1_000
            raise ValueError(cell)
        return float(cell)
    except ValueError:
        if re.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?", cell):
            raise DataError(
                f"{where}: {cell!r} has a decimal comma; write a point, {cell.replace(',', '.')}"
            ) from None
        raise DataError(f"{where}: {cell!r} is no number; correct the cell") from None
