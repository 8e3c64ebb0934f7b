"""SHA-256 of every file of a folder, in one file beside them: what was damaged since is found.

The sums find accidents. They are no signature: whoever changes a file can change its sum too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from vla.common.atomic import write_json
from vla.common.cores import usable_cores
from vla.common.foreign.json_files import JsonError, read_json

CHECKSUMS_FILE = "checksums.json"
_FORMAT = "sha256"


class EditedFileWarning(FutureWarning):
    """A file that people may edit is not the one that was saved with others."""


@contextmanager
def checksums_of_written(folder: Path, *, without: Iterable[str] = ()) -> Iterator[None]:
    """Within it files are written into the folder; on leaving, `checksums.json` lists them.

    Files that lay there before, and are not written again, are left out.

    Args:
        without: names of files that people may well edit.
    """
    # those of an earlier save would be wrong for what is written now
    (folder / CHECKSUMS_FILE).unlink(missing_ok=True)
    before = _states(folder)
    yield
    names = []
    for name, state in _states(folder).items():
        if name not in without and before.get(name) != state:
            names.append(name)
    sums = _sums([folder / name for name in names])
    write_json(folder / CHECKSUMS_FILE, {_FORMAT: dict(zip(names, sums, strict=True))})


def _states(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name of each file -> what changes when it is written."""
    states: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            found = file.stat()
            states[file.relative_to(folder).as_posix()] = (found.st_mtime_ns, found.st_ino)
    return states


def changed_files(folder: Path) -> Iterator[str]:
    """Names of files that are not those whose checksums were written; none if there are no sums.

    Raises JsonError if `checksums.json` cannot be read, OSError if a file cannot.
    """
    path = folder / CHECKSUMS_FILE
    # anything else in its place, a broken link too, is not what was saved
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise JsonError(path, "is no plain file; copy the folder again, or remove it")
    try:
        values = read_json(path)
    except JsonError as error:
        raise JsonError(path, f"{error.reason}; copy the folder again") from error
    stored = values.get(_FORMAT) if isinstance(values, dict) else None
    if not isinstance(stored, dict):
        raise JsonError(path, f"expected the key {_FORMAT} with a sum for each file; copy it again")
    # a name that leads elsewhere is no file of the folder; what is missing is its reader's matter
    present = [name for name in stored if _is_inside(folder, name) and (folder / name).is_file()]
    for name, found in zip(present, _sums([folder / name for name in present]), strict=True):
        if found != stored[name]:
            yield name


def _is_inside(folder: Path, name: str) -> bool:
    return "\0" not in name and (folder / name).resolve().is_relative_to(folder.resolve())


def _sums(paths: list[Path]) -> list[str]:
    # hashing leaves the interpreter's lock alone, so files are hashed side by side
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(sha256_of, paths))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = [
    "CHECKSUMS_FILE",
    "EditedFileWarning",
    "changed_files",
    "checksums_of_written",
    "sha256_of",
]
