"""Files of a dataset that others made: nothing outside its folder is read, and damage becomes a
DataError that names the file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from string import Formatter

import pyarrow as pa
import pyarrow.parquet as pq

from vla.data.errors import DataError
from vla.data.formats.common.files import inside

_PARQUET_MAGIC = b"PAR1"
Remedy = str | Callable[[], str]
"""What to do about a damaged file: words, or what finds them where they are needed."""
_NUMBER_FORMAT = re.compile(r"(0?\d{1,2})?d?")


def named_path(root: Path, relative: str, told_by: str) -> Path:
    """The path of a file that the dataset names. Raises DataError if it leads out of `root`;
    `told_by` says who asks."""
    parts = PurePosixPath(relative.replace("\\", "/")).parts
    windows = PureWindowsPath(relative)
    if (
        not parts
        or ".." in parts
        or parts[0] == "/"
        or windows.drive
        or windows.root
        or "\0" in relative
    ):
        raise DataError(
            f"{root}: {told_by} names {relative!r}, which is no path within the dataset's folder; "
            "correct it there"
        )
    return inside(root, root / relative)


def fill(template: str, told_by: str, **values: object) -> str:
    """`template` with its {names} replaced. Raises DataError if it asks for anything but `values`,
    plainly formatted."""
    try:
        fields = [
            (name, spec or "")
            for _, name, spec, _ in Formatter().parse(template)
            if name is not None
        ]
        for name, spec in fields:
            if name not in values or not _NUMBER_FORMAT.fullmatch(spec):
                raise ValueError(f"{{{name}:{spec}}}")
        return template.format(**values)
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"{told_by} is {template!r}, which cannot be filled in ({error}); it may use "
            f"{', '.join(values)}: correct it"
        ) from error


@contextlib.contextmanager
def opened_parquet(file: Path, remedy: Remedy) -> Iterator[pq.ParquetFile]:
    """A parquet file, open. What goes wrong with it in the block becomes a DataError naming the
    file and the remedy.

    Checksums of pages are verified where the file has them.
    """
    check_footer(file, remedy)
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            yield parquet
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file}: damaged parquet ({reason}); {_words(remedy)}") from error


def check_footer(file: Path, remedy: Remedy) -> None:
    """A writer that died before closing leaves a parquet file without its last four bytes. Raises
    DataError."""
    try:
        with open(file, "rb") as handle:
            handle.seek(0, 2)
            size = handle.tell()
            handle.seek(max(0, size - 4))
            whole = size >= 12 and handle.read(4) == _PARQUET_MAGIC
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; {_words(remedy)}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}; {_words(remedy)}") from error
    if not whole:
        lost = f"{file}: parquet without footer ({size} bytes; its writer died before closing it)"
        raise DataError(f"{lost}; {_words(remedy)}")


def _words(remedy: Remedy) -> str:
    return remedy if isinstance(remedy, str) else remedy()
