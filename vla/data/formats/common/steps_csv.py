"""The `steps.csv` of an episode: a header, then a row of numbers for each step.

L: steps of the episode.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.common.files import read_text

MOST_COLUMNS = 4096
"""More than any robot has dimensions."""
_TRUTH = {"true": 1.0, "false": 0.0}
"""As pandas and spreadsheets write booleans."""


def read_steps(root: Path, path: Path, words: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Column -> float64 (L,), or texts (L,) for the columns that `words` names.

    Raises DataError naming file, line and column of what is no number.
    """
    written = read_text(root, path)
    _check_separator(path, written)
    rows = csv.reader(io.StringIO(written, newline=""), strict=True)
    try:
        lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows if row]
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: {error}; correct the file") from error
    if len(lines) < 2:
        raise DataError(
            f"{path}: expected a header and a row for each step, found {len(lines)} rows in all; "
            "correct the file"
        )
    header = [name.removeprefix("\ufeff") for name in lines[0][1]]
    if len(header) > MOST_COLUMNS:
        raise DataError(
            f"{path}: has {len(header)} columns, expected at most {MOST_COLUMNS}; store what is no "
            "state and no action elsewhere"
        )
    counts = Counter(header)
    for column, name in enumerate(header):
        if not name:
            raise DataError(f"{path}: column {column + 1} has no name; correct the header")
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
            table[row, column] = _number(cell, f"{path}: line {line}, column {header[column]!r}")
    found: dict[str, np.ndarray] = dict(zip(header, table.T, strict=True))
    for name in set(words) & set(header):
        found[name] = np.array([cells[header.index(name)] for _, cells in lines[1:]])
    return found


def _hint(cells: int, names: int) -> str:
    # 0,5 of a program that writes decimal commas is two cells
    return " (decimals are written with a point, not a comma)" if cells == 2 * names else ""


def _check_separator(path: Path, words: str) -> None:
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
