"""Files of a dataset that others made: nothing outside its folder is read, and damage becomes a
DataError that names the file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from string import Formatter

import pyarrow as pa
import pyarrow.parquet as pq

from vla.common.foreign.sizes import why_too_large
from vla.common.machine_faults import machine_fault
from vla.data.errors import DataError, raised_here, unreadable
from vla.data.formats.common.files import check_plain, inside

_PARQUET_MAGIC = b"PAR1"
Remedy = str | Callable[[], str]
"""What to do about a damaged file: a sentence, or what makes it when it is needed."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4}
"""Bytes of a number in memory, by what parquet calls it."""
_LONGEST = 8
_measured: set[tuple[str, int, int]] = set()
"""Name, size and time of the files that are no larger than they look."""
_NUMBER_FORMAT = re.compile(r"(0?\d{1,2})?d?")


def named_path(root: Path, relative: str, source: str) -> Path:
    """The path of a file that the dataset names. Raises DataError if it leads out of `root`.

    Args:
        source: what names it, for the message.
    """
    check_name(root, relative, source)
    return inside(root, root / relative)


def check_name(root: Path, relative: str, source: str) -> None:
    """Raises DataError as `named_path`, by the name alone."""
    # By the rules of both systems: a dataset made on one may be read on the other.
    parts = PurePosixPath(relative.replace("\\", "/")).parts
    windows = PureWindowsPath(relative)
    absolute = windows.drive or windows.root or (parts and parts[0] == "/")
    if not parts or absolute or ".." in parts or "\0" in relative:
        raise DataError(
            f"{root}: {source} names {relative!r}, which is no path within the dataset's folder; "
            "correct it there"
        )


def fill(template: str, source: str, **values: object) -> str:
    """`template` with its {names} replaced. Raises DataError if it asks for anything but `values`,
    plainly formatted."""
    # `str.format` alone would let a dataset reach attributes ({x.__class__}) and ask for strings of
    # gigabytes ({x:999999999d}).
    try:
        for _, name, spec, _ in Formatter().parse(template):
            if name is None:  # plain text at the end
                continue
            if name not in values or not _NUMBER_FORMAT.fullmatch(spec or ""):
                raise ValueError(f"{{{name}:{spec}}}")
        return template.format(**values)
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"{source} is {template!r}, which cannot be filled in ({error}); it may use "
            f"{', '.join(values)}: correct it"
        ) from error


@contextlib.contextmanager
def opened_parquet(file: Path, remedy: Remedy) -> Iterator[pq.ParquetFile]:
    """A parquet file, open. What goes wrong with it in the block becomes a DataError naming the
    file and the remedy.

    Checksums of pages are verified if the file has them.
    """
    check_footer(file, remedy)
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            _check_unpacked(file, parquet.metadata)
            yield parquet
    except DataError:
        raise
    # MemoryError, OverflowError: damaged lengths ask for absurd amounts
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        if not isinstance(error, pa.ArrowException | OSError) and raised_here(error):
            raise  # a mistake of this package is no damage
        if machine_fault(error) and not isinstance(error, MemoryError):
            raise  # the file may be whole
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file}: damaged parquet ({reason}); {_sentence(remedy)}") from error


def unpacked_size(footer: pq.FileMetaData, columns: Sequence[str] | None = None) -> int:
    """Bytes that the numbers and texts of a parquet file take at least, once they are read.

    Rows that are all alike take next to nothing in a file, compressed or not: so they are counted.

    Args:
        footer: of the file.
        columns: whose; all by default.
    """
    total = 0
    for group in range(footer.num_row_groups):
        row_group = footer.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            if columns is None or column.path_in_schema.partition(".")[0] in columns:
                width = _WIDTHS.get(column.physical_type, _LONGEST)
                total += max(column.num_values * width, column.total_uncompressed_size)
    return total


def _check_unpacked(file: Path, footer: pq.FileMetaData) -> None:
    status = file.stat()
    state = (str(file), status.st_size, status.st_mtime_ns)
    # images are read a row group at a time, and each opens the file
    if state in _measured:
        return
    problem = why_too_large(unpacked_size(footer), status.st_size)
    if problem:
        raise DataError(f"{file}: {problem}")
    _measured.add(state)


def check_footer(file: Path, remedy: Remedy) -> None:
    """A writer that died before closing leaves a parquet file without its last four bytes. Raises
    DataError."""
    check_plain(file)
    try:
        with open(file, "rb") as handle:
            handle.seek(0, 2)  # to the end
            size = handle.tell()
            handle.seek(max(0, size - 4))
            whole = size >= 12 and handle.read(4) == _PARQUET_MAGIC
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; {_sentence(remedy)}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}; {_sentence(remedy)}") from error
    if not whole:
        lost = f"parquet without footer ({size} bytes; its writer died before closing it)"
        raise unreadable(file, f"{lost}; {_sentence(remedy)}")


def _sentence(remedy: Remedy) -> str:
    return remedy if isinstance(remedy, str) else remedy()
