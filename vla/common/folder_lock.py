"""One writer for a folder: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from vla.common.disk_faults import naming
from vla.common.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without locks answer."""


class FolderInUseError(UserError):
    """Another process writes to the folder; the message names it."""


@contextlib.contextmanager
def alone(folder: Path, *, file: str | None = None) -> Iterator[None]:
    """Holds `folder`, which is made if it is missing, for the block.

    Faults of the disk in the block name the folder.

    Does nothing on Windows, and on file systems that have no locks.

    Args:
        folder: what is written to.
        file: name of a file in it that stands for it, where several kinds of commands may write to
            one folder side by side; by default the folder itself is locked, which leaves no file.

    Raises:
        FolderInUseError: another process, or another block of this one, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        with naming(folder):
            yield
        return
    if file is None:
        handle = os.open(folder, os.O_RDONLY)
    else:
        handle = os.open(folder / file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(handle, folder)
        with naming(folder):
            yield
    finally:
        # closing it releases the lock, unless a child process inherited the handle
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        # flock, not lockf: POSIX locks are released as soon as any handle of the file is closed
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderInUseError(
            f"{folder}: another process writes to it; wait for its end, or choose another folder"
        ) from error
    except OSError as error:
        # Two writers are seldom, file systems without locks are not: the work goes on unguarded.
        if error.errno not in _NO_LOCKS:
            raise
