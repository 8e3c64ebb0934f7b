"""Disks that fail: errors that name no file get the name of what was written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

DISK_FAULTS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "your quota on the disk is used up",
    errno.EFBIG: "the file would be larger than the file system or `ulimit -f` allows",
    errno.EIO: "the disk, or the network that it is behind, fails to read or write",
    errno.EROFS: "the disk may only be read",
    errno.ESTALE: "the network disk has lost the file",
}
"""errno -> what has happened, for what only a disk can answer."""
_OF_A_LIBRARY = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers) end the text of a system's error."""


def fault_number(error: BaseException) -> int | None:
    """The system's number of what went wrong; None if the error is of another kind."""
    if isinstance(error, OSError):
        return error.errno
    found = _OF_A_LIBRARY.search(str(error))
    return None if found is None else int(found[1])


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Faults of the disk in the block name a file: `path`, if they name none of their own.

    A failed fsync or write says a number alone, and a library may say it in an error of its own
    kind, which becomes an OSError.
    """
    try:
        yield
    except Exception as error:
        number = fault_number(error)
        if number not in DISK_FAULTS:
            raise
        if not isinstance(error, OSError):
            raise OSError(number, os.strerror(number), str(path)) from error
        if error.filename is None:
            error.filename = str(path)
        raise
