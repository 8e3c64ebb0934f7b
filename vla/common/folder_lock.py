"""One writer for a folder or a file: a lock that ends with the process that holds it, however it
ends."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from vla.common.errors import Notice, UserError
from vla.common.machine_faults import naming

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
"""What file systems without locks answer. EBADF: over NFS folders cannot be locked, which is done
there by a lock that asks for a handle that may write."""


class FolderInUseError(UserError):
    """Another process writes to the folder or the file; the message names it."""


class UnguardedFolderWarning(Notice):
    """The file system has no locks, so a second command there would not be noticed."""


@contextlib.contextmanager
def alone(folder: Path, *, file: str | None = None) -> Iterator[None]:
    """Holds `folder`, which is made if it is missing, for the block.

    Faults of the disk in the block name the folder. If the block fails and has put nothing into a
    folder that was made for it, the folder is removed again.

    Does nothing on Windows, and warns on file systems that have no locks.

    Args:
        folder: what is written to.
        file: name of a file in it that stands for it, where several kinds of commands may write to
            one folder side by side; by default the folder itself is locked, which leaves no file.

    Raises:
        FolderInUseError: another process, or another block of this one, holds it.
    """
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _held(folder if file is None else folder / file, folder), naming(folder):
            yield
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):
                if file is not None:
                    (folder / file).unlink(missing_ok=True)
                # refuses what is not empty
                folder.rmdir()
        raise


@contextlib.contextmanager
def _held(path: Path, name: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    handle = os.open(path, flags, 0o666)
    try:
        _lock(handle, name)
        yield
    finally:
        # closing it releases the lock, unless a child process inherited the handle
        os.close(handle)


@contextlib.contextmanager
def alone_on_file(written: Path, path: Path) -> Iterator[None]:
    """Holds the file `written`, which is made if it is missing and becomes `path`, for the block.

    Raises FolderInUseError, which names `path`, if another process holds it.
    """
    with _held(written, path):
        yield


@contextlib.contextmanager
def alone_on_folder(written: Path, path: Path) -> Iterator[None]:
    """Holds the folder `written`, which is made if it is missing and becomes `path`, for the block.

    Raises FolderInUseError, which names `path`, if another process holds it.
    """
    written.mkdir(exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(written, os.O_RDONLY)
    try:
        _lock(handle, path)
        # whoever held it may have put it into its place meanwhile: that is not to be written to
        if not written.exists() or not os.path.samestat(os.fstat(handle), written.stat()):
            raise _in_use(path)
        yield
    finally:
        os.close(handle)


def refuse_if_in_use(folder: Path) -> None:
    """Raises FolderInUseError if another process writes to `folder`.

    For commands that look at what is there before they hold it: what another has half written
    would be taken for something else.
    """
    if folder.is_dir():
        with alone(folder):
            pass


def _lock(handle: int, name: Path) -> None:
    try:
        # flock, not lockf: POSIX locks are released as soon as any handle of the file is closed
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(name) from error
    except OSError as error:
        # Two writers are seldom, file systems without locks are not: the work goes on unguarded.
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{name}: its file system has no locks, so see to it yourself that no other command "
            "writes there",
            UnguardedFolderWarning,
            stacklevel=2,
        )


def _in_use(name: Path) -> FolderInUseError:
    return FolderInUseError(
        f"{name}: another process writes to it; wait for its end, or choose another name"
    )
