"""Folders in the system's shared memory, gone when the last process that uses them has ended."""

from __future__ import annotations

import os
import shutil
import stat
import weakref
from pathlib import Path

from vla.data.errors import DataError
from vla.data.storage.file_lock import FileLock, fcntl

_SYSTEM = Path("/dev/shm")
_GATE, _USERS = "gate.lock", "users.lock"


class SharedFolder:
    """A folder that this process uses until it ends, or until this object is collected.

    The last user removes it. What a killed last user left behind is removed by the next one that
    comes to `base`, or used again if it is the folder of that name.

    Args:
        name: of the folder; processes that give the same name share it.
        base: folder of such folders; in the system's shared memory by default.

    Attributes:
        path: the folder.

    Raises:
        DataError: the system has no shared memory folder, or that of this user belongs to another.
    """

    def __init__(self, name: str, base: Path | None = None) -> None:
        if base is None:
            base = _own_folder()
        base.mkdir(parents=True, exist_ok=True)
        self.path = base / name
        with FileLock(base / _GATE):
            for other in base.iterdir():
                if other.is_dir() and other != self.path:
                    _remove_unused(other)
            self.path.mkdir(exist_ok=True)
            # Held by every user as long as it lives; whoever gets it alone knows that none is left.
            users = FileLock(self.path / _USERS, shared=True)
            users.acquire()
        # not __del__: a finalizer also runs when the interpreter ends
        self._finalizer = weakref.finalize(self, _leave, base, self.path, users)


def _leave(base: Path, path: Path, users: FileLock) -> None:
    users.release()
    if base.exists():
        with FileLock(base / _GATE):
            _remove_unused(path)


def _remove_unused(path: Path) -> None:
    """Removes the folder unless some process uses it. The gate must be held, so that no user comes
    meanwhile."""
    if not path.exists():
        return
    lock = FileLock(path / _USERS)
    if lock.try_acquire():
        shutil.rmtree(path, ignore_errors=True)
        lock.release()


def _own_folder() -> Path:
    """This user's folder in shared memory, which nobody else may write to."""
    if fcntl is None or not _SYSTEM.is_dir():
        raise DataError(
            f"{_SYSTEM}: this system has no shared memory folder; use cache='disk' or 'ram'"
        )
    own = _SYSTEM / f"vla-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    # All users may write to shared memory: another may have put a folder or a link of this name
    # there, to read our frames or to give us its own. lstat, since stat would follow the link.
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise DataError(
            f"{own}: belongs to another user or can be written by others; remove it, or use "
            "cache='disk'"
        )
    return own
