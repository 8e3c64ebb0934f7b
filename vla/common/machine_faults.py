"""Errors of the machine, not of the config or of this package: one line each with what helps."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import traceback
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
_OF_NUMBER = {
    errno.EMFILE: (
        "too many open files: raise the limit with `ulimit -n 65536` in this shell, or lower "
        "`workers`"
    ),
    errno.ENFILE: "the whole machine has too many open files: end other programs",
    errno.ENOMEM: "the system gives no more memory: lower `workers` or `batch_size`",
    errno.EAGAIN: (
        "the system starts no more processes or threads: free memory, see `ulimit -u`, or lower "
        "`workers`"
    ),
}
"""errno -> what it means, and what helps."""
_REMEDIES = {
    errno.EEXIST: "something else lies there: choose another name, or move it away",
    errno.ENOTDIR: "a part of the path is a file: choose another path",
    errno.EISDIR: "name a file in it, or choose another path",
    errno.ENOENT: "see that its folder exists and is spelled so",
    errno.EACCES: "see `ls -ld` for whom it belongs to, or choose another path",
    errno.EPERM: "see `ls -ld` for whom it belongs to, or choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link there leads back to itself: remove it",
}
"""errno -> what helps where the system says no."""
_KEPT = (
    "what was complete is kept; mend it and repeat the command (train, online, reward, align, "
    "collect and eval go on with --resume), or choose a folder on another disk"
)
_GPU_MEMORY = (
    "the GPU has too little memory: lower `batch_size` (with `grad_accumulation` the result stays "
    "the same), or set `precision: bf16`"
)
_MEMORY = "not enough memory: lower `batch_size` or `workers`, or set `data.cache: disk`"
_OF_A_LIBRARY = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers) end the text of a system's error."""


_NO_MEMORY = re.compile(r"(can't|could not|cannot|failed to) allocate memory|bad_alloc", re.I)
"""What torch, MuJoCo and other libraries in C++ say where Python has MemoryError."""

_NO_THREADS = re.compile(r"can't start new thread|failed to launch worker thread", re.I)
"""What Python and pyarrow say."""


def end_where_threads_get_no_memory() -> None:
    """Ends the process with one line when a thread has no memory to begin.

    Python prints such an error and goes on, but whoever started the thread waits for it for ever.
    """
    line = f"error: {_MEMORY}\n".encode()
    usual = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        words = unraisable.err_msg or ""
        if issubclass(unraisable.exc_type, MemoryError) and "thread started" in words:
            # without buffers and clean-up: both would ask for memory
            os.write(2, line)
            os._exit(2)
        usual(unraisable)

    sys.unraisablehook = hook


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


def machine_fault(error: Exception) -> str | None:
    """What the machine lacks, with a remedy; None if the error is of another kind."""
    number = fault_number(error)
    if number in DISK_FAULTS:
        return f"{_place_of(error)}{DISK_FAULTS[number]}; {_KEPT}"
    if number in _OF_NUMBER:
        return _place_of(error) + _OF_NUMBER[number]
    # by names and words, not by types: torch may not even be loaded
    if type(error).__name__ == "OutOfMemoryError":
        return _GPU_MEMORY
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return _MEMORY
    if _NO_THREADS.search(str(error)):
        return _OF_NUMBER[errno.EAGAIN]
    return None


def refusal(error: Exception) -> str | None:
    """What the system says no to: a path that is no folder, may not be read, or the like. None if
    the error is of another kind."""
    if fault_number(error) is None:
        return None
    words = getattr(error, "strerror", None)
    if words is None:
        return str(error)
    remedy = _REMEDIES.get(fault_number(error) or 0)
    return _place_of(error) + str(words).lower() + (f"; {remedy}" if remedy else "")


def _place_of(error: Exception) -> str:
    name = getattr(error, "filename", None)
    return "" if name is None else f"{name}: "


def text_of(error: Exception) -> str:
    """An error as text, for another process: one line if the machine lacks something, else with its
    traceback."""
    return machine_fault(error) or "".join(traceback.format_exception(error))
