"""Files of a dataset that others made: none is read that lies outside of it, and none is
trusted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vla.common.errors import UserError
from vla.common.foreign.json_files import JsonError
from vla.common.foreign.json_files import parse_json as parse_foreign_json
from vla.common.foreign.plain_files import why_not_plain
from vla.data.errors import DataError, is_lfs_pointer, raised_here, unreadable

SOURCE = "copy it from the dataset's source"
_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")


def refuse_archive(root: Path) -> None:
    """Raises DataError if `root` is a packed dataset."""
    # zarr itself stores datasets in one .zip file
    if root.name.lower().endswith(".zarr.zip"):
        return
    if root.is_file() and root.suffix.lower() in _ARCHIVES:
        raise DataError(
            f"{root}: is an archive; unpack it and give the folder (or the file) that was in it"
        )


@contextlib.contextmanager
def library_errors(path: Path, otherwise: str) -> Iterator[None]:
    """Turns what a library raises in the block about the file at `path` into a DataError that
    names it: "is damaged or `otherwise`". Mistakes of this package pass.

    A damaged file shows as nearly any exception: OSError, RuntimeError, KeyError, ValueError,
    TypeError, MemoryError, zlib.error, ... A list of them would be found too short by the next
    damage. But the same exceptions show mistakes of our own, which would send the user to look
    for damage where there is none: so it counts who raised it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, OSError | MemoryError) and raised_here(error):
            raise
        raise unreadable(path, f"is damaged or {otherwise} ({error}); {SOURCE}") from error


def inside(root: Path, path: Path) -> Path:
    """`path`, which must stay in the dataset's folder. Raises DataError if its name or a link leads
    out of it, or if it is a pipe or a device, which would be waited for.

    In a download cache of the Hugging Face hub files are links into `blobs` beside `snapshots`,
    which counts as inside.
    """
    try:
        home = root.resolve()
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a NUL in the name
        raise DataError(
            f"{root}: {str(path)!r} is no path: {error}; restore the dataset"
        ) from error
    blobs = [folder.parent / "blobs" for folder in home.parents if folder.name == "snapshots"]
    if not any(real.is_relative_to(folder) for folder in (home, *blobs)):
        raise DataError(
            f"{path}: leads out of the dataset's folder, to {real}; put the file itself there"
        )
    check_plain(path)
    return path


def check_plain(path: Path) -> None:
    """Raises DataError if something else than a file or a folder lies there."""
    problem = why_not_plain(path)
    if problem:
        raise DataError(f"{path}: {problem}")


def read_text(root: Path, path: Path, remedy: str = SOURCE) -> str:
    """A text file of the dataset. Raises DataError if it is missing, leads out of `root` or is no
    UTF-8."""
    try:
        # -sig: editors on Windows put a mark of three bytes before the text
        found = inside(root, path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; {remedy}") from error
    except UnicodeDecodeError as error:
        raise unreadable(path, f"is no UTF-8 text: {error}; {remedy}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; {remedy}") from error
    # a text itself, so that it would be read as a table or an instruction
    if is_lfs_pointer(found.encode()):
        raise unreadable(path, remedy)
    return found


def read_json(
    root: Path,
    path: Path,
    remedy: str = SOURCE,
) -> dict[str, Any]:
    """Keys and values of a JSON file of the dataset. Raises DataError as `read_text`, or if it
    is no JSON object."""
    return parse_json(read_text(root, path, remedy), str(path), remedy)


def read_json_lines(
    root: Path,
    path: Path,
    remedy: str = SOURCE,
) -> list[dict[str, Any]]:
    """The objects in a file of one JSON object per line. Raises DataError, if it can, naming the
    line."""
    # not splitlines: JSON may hold U+2028 and other characters that count as ends of lines there
    lines = read_text(root, path, remedy).split("\n")
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append(parse_json(line, f"{path}: line {number}", remedy))
    return found


def parse_json(
    text: str | bytes,
    where: str,
    remedy: str = "restore it",
) -> dict[str, Any]:
    """Keys and values of a JSON object. Raises DataError naming `where` if `text` is none."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = parse_foreign_json(text, where)
    except (UnicodeDecodeError, TypeError) as error:
        raise DataError(f"{where}: is no JSON: {error}; {remedy}") from error
    except JsonError as error:
        reason = error.reason.removeprefix("not valid JSON: ")
        raise DataError(f"{where}: is no JSON: {reason}; {remedy}") from error
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: expected keys and values, found {type(value).__name__}; {remedy}"
        )
    return value


def files_of(root: Path) -> Iterator[Path]:
    """The files of a dataset, without caches and other hidden ones."""
    if root.is_file():
        yield root
    for folder, folders, names in os.walk(root):
        # in place: os.walk goes on into what is left in this list
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def fingerprint(root: Path, files: Iterable[Path], *facts: object) -> str:
    """Of the names, sizes and times of `files`, and of what is read from them."""
    base = root if root.is_dir() else root.parent
    try:
        stats = [(str(file.relative_to(base)), file.stat()) for file in sorted(files)]
    except OSError as error:
        raise DataError(
            f"{root}: a file went away while the dataset was open: {error}; open it again"
        ) from error
    described = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    text = json.dumps([described, *facts], default=str)
    return hashlib.sha256(text.encode()).hexdigest()
