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

from vla.common.machine_faults import machine_fault
from vla.data.errors import DataError, raised_here, unreadable
from vla.data.formats.common.files import inside

_PARQUET_MAGIC = b"PAR1"
Remedy = str | Callable[[], str]
"""What to do about a damaged file: a sentence, or what makes it when it is needed."""
_NUMBER_FORMAT = re.compile(r"(0?\d{1,2})?d?")


def named_path(root: Path, relative: str, source: str) -> Path:
    """The path of a file that the dataset names. Raises DataError if it leads out of `root`.

    Args:
        source: what names it, for the message.
    """
    # By the rules of both systems: a dataset made on one may be read on the other.
    parts = PurePosixPath(relative.replace("\\", "/")).parts
    windows = PureWindowsPath(relative)
    absolute = windows.drive or windows.root or (parts and parts[0] == "/")
    if not parts or absolute or ".." in parts or "\0" in relative:
        raise DataError(
            f"{root}: {source} names {relative!r}, which is no path within the dataset's folder; "
            "correct it there"
        )
    return inside(root, root / relative)


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


def check_footer(file: Path, remedy: Remedy) -> None:
    """A writer that died before closing leaves a parquet file without its last four bytes. Raises
    DataError."""
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
