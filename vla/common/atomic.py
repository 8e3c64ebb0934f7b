"""Files and folders that appear whole or not at all, whatever moment the process or the machine
dies."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vla.common.folder_lock import alone_on_file, alone_on_folder
from vla.common.machine_faults import naming

TEMPORARY_SUFFIX = ".tmp"
TEMPORARY_FOLDER = ".tmp-"
"""Prefix of a folder that is being written."""
OLD_FOLDER = ".tmp-old-"
"""Prefix of a folder that is being removed."""


def sync_file(path: Path) -> None:
    """Makes the content of a file durable."""
    # Windows syncs no handle that may only read; elsewhere a file may well be read-only.
    with naming(path), open(path, "rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes renames and new names inside `folder` durable. Does nothing where folders cannot be
    opened (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with naming(folder):
            os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(written: Path, path: Path, *, durable: bool = True) -> None:
    """Puts a finished file in the place of `path`, in one rename.

    Args:
        written: the new content, on the same file system.
        durable: the new file also survives a power cut. False is for what can be made again.
    """
    # The content before the name: a disk may keep them in any order, and a name whose content is
    # lost is an empty file.
    if durable:
        sync_file(written)
    os.replace(written, path)
    if durable:
        sync_folder(path.parent)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; on leaving, the file written there is synced and
    renamed to `path`.

    On an exception `path` keeps its old content and the temporary file is removed.

    Raises FolderInUseError if another process is writing `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside it, since a rename to another file system would be a copy
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    # two that write under one temporary name would take it from each other
    with alone_on_file(temporary, path):
        try:
            with naming(path):
                yield temporary
            replace_file(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def move_folder(written: Path, folder: Path) -> None:
    """Puts a finished folder in the place of `folder`, durably and in one rename."""
    for file in written.rglob("*"):
        if file.is_file():
            sync_file(file)
    for inner in written.rglob("*"):
        if inner.is_dir():
            sync_folder(inner)
    sync_folder(written)
    old = folder.with_name(f"{OLD_FOLDER}{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():  # a folder cannot be renamed onto one that has content
        folder.rename(old)
    written.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """`folder` gets what `write` puts into a temporary folder, durably and in one rename.

    On an exception `folder` is as before and the temporary folder is removed.

    Raises FolderInUseError if another process is writing `folder` in this way.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{TEMPORARY_FOLDER}{folder.name}")
    # two that write under one temporary name would delete what the other has written so far
    with alone_on_folder(temporary, folder):
        try:
            with naming(folder):
                _empty(temporary)  # of a process that was killed
                write(temporary)
                move_folder(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_replaceable(folder: Path) -> None:
    """Raises OSError if `replace_folder` could not put a folder there: a file is in its place, or
    what it lies in cannot be written to. Makes what it lies in.

    For work that takes long and writes at its end.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(folder.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder.parent))


def _empty(folder: Path) -> None:
    # not the folder itself, which is what is locked
    for inner in folder.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        else:
            inner.unlink()
