"""Files of a dataset that others made: nothing outside its folder is read, and damage becomes a DataError that names the file."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from string import Formatter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vla.data.errors import DataError

_PARQUET_MAGIC = b"PAR1"
_NUMBER_FORMAT = re.compile(r"(0?\d{1,2})?d?")


def inside(root: Path, relative: str, told_by: str) -> Path:
    """The path of a file of the dataset. Raises DataError where it would lead out of `root`; `told_by` says who asks.

    In a download cache of the Hugging Face hub the files of `snapshots/REVISION` are links into `blobs` of the same
    repository, which counts as inside.
    """
    parts = PurePosixPath(relative.replace("\\", "/")).parts
    windows = PureWindowsPath(relative)
    if not parts or ".." in parts or parts[0] == "/" or windows.drive or windows.root or "\0" in relative:
        raise DataError(
            f"{root}: {told_by} names {relative!r}, which is no path within the dataset's folder; correct it there"
        )
    path = root / relative
    check_inside(root, path)
    return path


def check_inside(root: Path, path: Path) -> None:
    """Raises DataError where `path`, its links followed, lies outside `root`."""
    base = root.resolve()
    allowed = [base, base.parent.parent / "blobs"] if base.parent.name == "snapshots" else [base]
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: a link that leads nowhere ({error}); put the file itself there") from error
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise DataError(f"{path}: a link out of the dataset's folder, to {target}; put the file itself there")


def fill(template: str, told_by: str, **values: object) -> str:
    """`template` with its {names} replaced. Raises DataError where it asks for anything but `values`, plainly formatted."""
    try:
        fields = [(name, spec or "") for _, name, spec, _ in Formatter().parse(template) if name is not None]
        for name, spec in fields:
            if name not in values or not _NUMBER_FORMAT.fullmatch(spec):
                raise ValueError(f"{{{name}:{spec}}}")
        return template.format(**values)
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"{told_by} is {template!r}, which cannot be filled in ({error}); it may use {', '.join(values)}: correct it"
        ) from error


def read_json(path: Path, remedy: str = "restore the file") -> dict[str, Any]:
    """The object in a JSON file. Raises DataError."""
    value = _parse(_text(path, remedy), str(path), remedy)
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected keys and values, found {type(value).__name__}; {remedy}")
    return value


def read_json_lines(path: Path, remedy: str) -> list[dict[str, Any]]:
    """The objects in a file of one JSON object per line. Raises DataError naming the line."""
    rows = []
    for number, line in enumerate(_text(path, remedy).split("\n"), start=1):
        if line.strip():
            row = _parse(line, f"{path}: line {number}", remedy)
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}: line {number}: expected keys and values, found {type(row).__name__}; {remedy}"
                )
            rows.append(row)
    return rows


def _text(path: Path, remedy: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; {remedy}") from error


def _parse(text: str, place: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is no JSON: {error}; {remedy}") from error


@contextlib.contextmanager
def opened_parquet(file: Path, remedy: str) -> Iterator[pq.ParquetFile]:
    """A parquet file, open. What goes wrong with it in the block becomes a DataError naming the file and the remedy.

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
        raise DataError(f"{file}: damaged parquet ({reason}); {remedy}") from error


def check_footer(file: Path, remedy: str) -> None:
    """A writer that died before closing leaves a parquet file without its last four bytes. Raises DataError."""
    try:
        with open(file, "rb") as handle:
            handle.seek(0, 2)
            size = handle.tell()
            handle.seek(max(0, size - 4))
            whole = size >= 12 and handle.read(4) == _PARQUET_MAGIC
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; {remedy}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}; {remedy}") from error
    if not whole:
        raise DataError(f"{file}: parquet without footer ({size} bytes; its writer died before closing it); {remedy}")
