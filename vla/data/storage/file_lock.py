"""Locks between processes that die with their holder, however it dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from vla.data.errors import DataError

try:
    import fcntl
except ImportError:  # Windows, where processes that share a cache must start one after the other
    fcntl = None  # type: ignore[assignment]

_POLL_SECONDS = 0.1


class FileLock:
    """A lock that the system holds on an open file, and releases when the process ends: no kill
    leaves it behind.

    Two locks on one path exclude each other in one process, too. The file itself stays where it is.

    Args:
        path: the file; made if it is missing.
        shared: whether others may hold it as well, as long as they share it.

    Raises:
        DataError: the file cannot be made, or its file system has no locks.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self.shared = shared
        self._handle: int | None = None

    def try_acquire(self) -> bool:
        """Takes the lock if no other holder excludes it; returns whether it did."""
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if fcntl is not None and not _locked(handle, self.shared):
                os.close(handle)
                return False
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be locked: {error.strerror}; let the cache lie in a folder "
                "on a local disk that can be written, or keep frames in memory (cache='ram')"
            ) from error
        if not _is_at(handle, self.path):
            # The folder was deleted and made again since the file was opened: this lock is on a
            # file that nobody else will find.
            os.close(handle)
            return False
        self._handle = handle
        return True

    def acquire(self, waiting: Callable[[], None] | None = None) -> None:
        """Takes the lock as soon as it is free; calls `waiting` again and again until then."""
        while not self.try_acquire():
            if waiting is not None:
                waiting()
            time.sleep(_POLL_SECONDS)

    def release(self) -> None:
        """Releases the lock. In a fork of the holder this leaves the holder's lock alone."""
        if self._handle is not None:
            # Closing, not LOCK_UN: a fork shares the open file, and unlocking there would take the
            # lock from its parent. The file stays: another may be waiting on it.
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _locked(handle: int, shared: bool) -> bool:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        # flock, not lockf: POSIX locks belong to the process, so two threads would both get them,
        # and closing any handle of the file would release them.
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        os.close(handle)
        raise
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
