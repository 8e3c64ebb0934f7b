"""Errors of the machine, not of the config or of this package: one line each with what helps."""

from __future__ import annotations

import errno

_OF_NUMBER = {
    errno.EMFILE: (
        "too many open files: raise the limit with `ulimit -n 65536` in this shell, or lower "
        "`workers`"
    ),
    errno.ENFILE: "the whole machine has too many open files: end other programs",
    errno.ENOMEM: "the system gives no more memory: lower `workers` or `batch_size`",
    errno.ENOSPC: "no space left on the disk: free some, or choose an `out` on another disk",
    errno.EAGAIN: (
        "the system starts no more processes or threads: see `ulimit -u`, or lower `workers`"
    ),
}
"""errno -> what it means, and what helps."""
_GPU_MEMORY = (
    "the GPU has too little memory: lower `batch_size` (with `grad_accumulation` the result stays "
    "the same), or set `precision: bf16`"
)
_MEMORY = "not enough memory: lower `batch_size` or `workers`, or set `data.cache: disk`"


def machine_fault(error: Exception) -> str | None:
    """What the machine lacks, with a remedy; None if the error is of another kind."""
    if isinstance(error, OSError) and error.errno in _OF_NUMBER:
        where = "" if error.filename is None else f"{error.filename}: "
        return where + _OF_NUMBER[error.errno]
    if isinstance(error, MemoryError):
        return _MEMORY
    # by names and words, not by types: torch may not even be loaded
    if type(error).__name__ == "OutOfMemoryError":
        return _GPU_MEMORY
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return _MEMORY
    return None
