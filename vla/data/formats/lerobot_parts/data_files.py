"""The parquet files that hold a dataset's frames: numbers as matrices, images as they are stored.

R: rows of all files together, in order; D: numbers in a row of a column.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vla.common.cores import usable_cores
from vla.common.foreign.sizes import why_too_large
from vla.data import schema
from vla.data.errors import DataError
from vla.data.formats.common.files import inside
from vla.data.formats.lerobot_parts.info import IMAGE, NUMERIC, VIDEO, Feature
from vla.data.formats.lerobot_parts.paths import (
    check_footer,
    named_path,
    opened_parquet,
    unpacked_size,
)

_TEXT = ("string", "large_string", "string_view")


class _RowGroups(NamedTuple):
    """Of all data files, in the order of rows."""

    places: list[tuple[int, int]]
    """(number of the file, number of the group in it)."""
    starts: list[int]
    """First row of each group; then the number of all rows."""


class DataFiles:
    """Parquet files whose rows follow one another.

    Args:
        root: folder of the dataset.
        paths: the files, in the order of their rows.
        features: of info.json.
        remedy: what to do if the given file is damaged.

    Raises:
        DataError: a file is missing, lies outside the dataset or has no footer.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[Path],
        features: dict[str, Feature],
        remedy: Callable[[Path], str],
    ) -> None:
        self.root = root
        self.paths = list(paths)
        self._features = features
        self._remedy = remedy
        for path in self.paths:
            check_footer(inside(root, path), self._remedy_for(path))

    def _remedy_for(self, file: Path) -> Callable[[], str]:
        # a function: which episodes a file holds takes time to find, and is needed for errors only
        return functools.partial(self._remedy, file)

    def check_columns(self, *, strict: bool) -> list[str]:
        """Compares info.json with the columns of the first file; returns warnings if they differ
        without harm.

        Raises DataError if a column holds another kind or shape than info.json says, and if
        `strict`, also if a feature has no column.
        """
        file = self.paths[0]
        warnings = []
        with opened_parquet(file, self._remedy_for(file)) as parquet:
            stored = parquet.schema_arrow
        for name, feature in self._features.items():
            if feature.dtype == VIDEO:  # has files of its own, and no column
                continue
            if name not in stored.names:
                lacks = f"{file}: lacks the column {name!r} that {schema.INFO} lists"
                if strict:
                    raise DataError(
                        f"{lacks} (it has: {', '.join(stored.names)}); remove the feature there "
                        "or restore the data"
                    )
                warnings.append(f"{lacks}; it is left out")
                continue
            found = _described(stored.field(name).type)
            expected = _expected(feature)
            if expected is None or found is None or found == expected:
                continue
            if _family(found) == _family(expected):
                warnings.append(
                    f"{file}: column {name!r} holds {found}, {schema.INFO} says {expected}; read "
                    "as float32"
                )
                continue
            raise DataError(
                f"{file}: column {name!r} holds {found}, {schema.INFO} says {expected}; "
                "correct the feature's dtype and shape there"
            )
        extra = [name for name in stored.names if name not in self._features]
        if extra:
            warnings.append(
                f"{file}: columns that {schema.INFO} does not list are not read: "
                f"{', '.join(extra)}; describe them there to read them"
            )
        return warnings

    @functools.cached_property
    def columns(self) -> list[str]:
        """Names of the columns of the first file."""
        # the first speaks for all: one that differs is refused when it is read
        file = self.paths[0]
        with opened_parquet(file, self._remedy_for(file)) as parquet:
            return list(parquet.schema_arrow.names)

    def has(self, name: str) -> bool:
        """Whether the first file has such a column."""
        return name in self.columns

    def read(self, columns: dict[str, type[Any]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Column -> its numbers (R, D) in the given dtype, and the rows of each file. One pass over
        the files.

        Raises DataError if a file is damaged, lacks a column, or holds rows of another width than
        info.json says.
        """

        def one(file: Path) -> tuple[dict[str, np.ndarray], int]:
            with opened_parquet(file, self._remedy_for(file)) as parquet:
                sizes.append(unpacked_size(parquet.metadata, list(columns)))
                # each file may be small, and all of them together larger than memory
                problem = why_too_large(sum(sizes), stored)
                if problem:
                    raise DataError(f"{self.root}: {problem}")
                table = _columns(parquet, file, list(columns))
                matrices = {}
                for name, dtype in columns.items():
                    matrices[name] = self._matrix(table, file, name, dtype)
                return matrices, len(table)

        stored = sum(file.stat().st_size for file in self.paths)
        sizes: list[int] = []  # of what was read so far
        # at most 8: beyond that the disk is the limit, and every file takes memory
        with ThreadPoolExecutor(min(8, usable_cores(), len(self.paths))) as pool:
            parts = list(pool.map(one, self.paths))
        merged = {}
        for name in columns:
            merged[name] = np.concatenate([matrices[name] for matrices, _ in parts])
        return merged, np.asarray([rows for _, rows in parts], np.int64)

    def _matrix(
        self,
        table: pa.Table,
        file: Path,
        name: str,
        dtype: type[Any],
    ) -> np.ndarray:
        column = table.column(name)
        width = self._features[name].width if name in self._features else 1
        place = f"{file}: column {name!r}"
        # chunk by chunk: joining them first would copy the whole column once more
        parts = [column_numbers(chunk, place, dtype) for chunk in column.chunks if len(chunk)]
        for part in parts:
            if part.shape[1] != width:
                raise DataError(
                    f"{file}: column {name!r} has {part.shape[1]} numbers per row, {schema.INFO} "
                    f"says {width}; correct the feature's shape there, or restore the file"
                )
        return np.concatenate(parts) if parts else np.zeros((0, width), dtype)

    def values(self, name: str) -> list[Any]:
        """A column's R values as they are: numbers or strings. Raises DataError as `read` does."""
        # as Python objects: a column of tasks holds numbers in one dataset, texts in another
        found: list[Any] = []
        for file in self.paths:
            with opened_parquet(file, self._remedy_for(file)) as parquet:
                found += _columns(parquet, file, [name]).column(name).to_pylist()
        return found

    def images(
        self,
        name: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, bytes]]:
        """(row, image file) of the rows [start, stop), a row group at a time. Raises DataError if a
        row has none."""
        starts = self._row_groups.starts
        for place in self._places(start, stop):
            number, group = self._row_groups.places[place]
            file = self.paths[number]
            first = max(start, starts[place])
            last = min(stop, starts[place + 1])
            column = self._image_column(file, group, name)
            column = column.slice(first - starts[place], last - first)
            for row, value in enumerate(column, start=first):
                yield row, self._image(value.as_py(), file, name, row)

    def row_groups_of(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(number of the file, row group) of what holds the rows [start, stop)."""
        return [self._row_groups.places[place] for place in self._places(start, stop)]

    def _places(self, start: int, stop: int) -> range:
        starts = self._row_groups.starts
        # `right`, so that of empty groups at one row the last is taken, which has the row
        first = bisect.bisect_right(starts, start) - 1
        end = bisect.bisect_left(starts, stop)
        return range(first, min(end, len(starts) - 1))

    def _image_column(self, file: Path, group: int, name: str) -> pa.ChunkedArray:
        with opened_parquet(file, self._remedy_for(file)) as parquet:
            return _columns(parquet, file, [name], group).column(name)

    def _image(
        self,
        value: Any,
        file: Path,
        name: str,
        row: int,
    ) -> bytes:
        # {bytes, path} of the library `datasets`: bytes here, or a file beside the data
        given = value if isinstance(value, dict) else {}
        if given.get("bytes"):
            return bytes(given["bytes"])
        lost = f"{file}: frame {row}: {name!r} has no image; drop its episode or restore the data"
        if not isinstance(given.get("path"), str) or not given["path"]:
            raise DataError(lost)
        path = named_path(self.root, given["path"], f"frame {row} of {file.name}, column {name!r},")
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{lost} (its file {given['path']!r} cannot be read: {error.strerror})"
            ) from error

    @functools.cached_property
    def _row_groups(self) -> _RowGroups:
        # from the footers, once: they say how many rows a group has
        groups, starts = [], [0]
        for number, file in enumerate(self.paths):
            with opened_parquet(file, self._remedy_for(file)) as parquet:
                footer = parquet.metadata
                for group in range(footer.num_row_groups):
                    groups.append((number, group))
                    starts.append(starts[-1] + footer.row_group(group).num_rows)
        return _RowGroups(groups, starts)


def _columns(
    parquet: pq.ParquetFile,
    file: Path,
    names: list[str],
    group: int | None = None,
) -> pa.Table:
    """The named columns, of all rows or of one row group."""
    stored = parquet.schema_arrow.names
    for name in names:
        if stored.count(name) != 1:
            raise DataError(
                f"{file}: has {stored.count(name)} columns {name!r} (there are: "
                f"{', '.join(stored)}); expected one: restore the file"
            )
    # Threads run over files; more of them within a file would only compete.
    if group is None:
        return parquet.read(columns=names, use_threads=False)
    return parquet.read_row_group(group, columns=names, use_threads=False)


def column_numbers(
    array: pa.Array,
    place: str,
    dtype: type[Any],
) -> np.ndarray:
    """A column of numbers, or of lists of as many of them each, as (rows, D)."""
    rows = len(array)
    # Lists of lists are matrices per step, laid out in one row.
    while is_list(array.type):
        lengths = pc.min_max(pc.list_value_length(array))
        if array.null_count or lengths["min"] != lengths["max"]:
            raise DataError(
                f"{place} has rows of different lengths or empty ones; repair or drop the file"
            )
        array = array.flatten()
    if not is_number(array.type):
        raise DataError(
            f"{place} holds {array.type}, expected numbers; name another column, or correct the "
            "file"
        )
    values = array.to_numpy(zero_copy_only=False).reshape(rows, -1)
    if not np.issubdtype(dtype, np.integer):
        # Beyond the range of float32 becomes infinite, which is refused where numbers are checked.
        with np.errstate(over="ignore"):
            return np.asarray(values, dtype=dtype)
    # astype would turn NaN and 1.5 into some integer without a word
    whole = values if not array.null_count else np.full_like(values, np.nan, np.float64)
    if whole.dtype.kind == "f":
        is_whole = np.isfinite(whole) & (np.floor(whole) == whole) & (np.abs(whole) < 2**53)
        if not is_whole.all():
            raise DataError(f"{place} has rows without a whole number; restore the file")
    return np.asarray(whole).astype(dtype)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists, of one length or of several."""
    tests = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    return any(test(kind) for test in tests)


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds one number per row."""
    tests = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def _described(kind: pa.DataType) -> str | None:
    """A column's type as "dtype[shape]"; None if the shape is not in the type."""
    if pa.types.is_struct(kind):
        return IMAGE
    if pa.types.is_fixed_size_list(kind) and not pa.types.is_nested(kind.value_type):
        return f"{_name(kind.value_type)}[{kind.list_size}]"
    return None if pa.types.is_nested(kind) else f"{_name(kind)}[1]"


def _name(kind: pa.DataType) -> str:
    """Numpy's name of an arrow type, which is what info.json says."""
    name = str(kind)
    if name in _TEXT:
        return "string"
    return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(name, name)


def _family(described: str) -> str:
    """What is read alike: any float becomes float32."""
    return re.sub("float(16|32|64)", "float", described)


def _expected(feature: Feature) -> str | None:
    """What info.json says, as `_described`; None for what has more than one dimension."""
    if feature.dtype == IMAGE:
        return IMAGE
    if feature.dtype not in (*NUMERIC, "string"):  # of a kind that nothing reads
        return None
    return f"{feature.dtype}[{feature.shape[0]}]" if len(feature.shape) == 1 else None
