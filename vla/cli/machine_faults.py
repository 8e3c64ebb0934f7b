"""Errors of the machine, not of the config or of this package: one line each with what helps."""

from __future__ import annotations

import errno

from vla.common.disk_faults import DISK_FAULTS, fault_number

_OF_NUMBER = {
    errno.EMFILE: (
        "too many open files: raise the limit with `ulimit -n 65536` in this shell, or lower "
        "`workers`"
    ),
    errno.ENFILE: "the whole machine has too many open files: end other programs",
    errno.ENOMEM: "the system gives no more memory: lower `workers` or `batch_size`",
    errno.EAGAIN: (
        "the system starts no more processes or threads: see `ulimit -u`, or lower `workers`"
    ),
}
"""errno -> what it means, and what helps."""
_KEPT = (
    "what was complete is kept; mend it and repeat the command (train, collect and eval go on with "
    "--resume), or choose a folder on another disk"
)
_GPU_MEMORY = (
    "the GPU has too little memory: lower `batch_size` (with `grad_accumulation` the result stays "
    "the same), or set `precision: bf16`"
)
_MEMORY = "not enough memory: lower `batch_size` or `workers`, or set `data.cache: disk`"


def machine_fault(error: Exception) -> str | None:
    """What the machine lacks, with a remedy; None if the error is of another kind."""
    number = fault_number(error)
    if number is not None:
        name = getattr(error, "filename", None)
        where = "" if name is None else f"{name}: "
        if number in DISK_FAULTS:
            return f"{where}{DISK_FAULTS[number]}; {_KEPT}"
        return where + (_OF_NUMBER.get(number) or _words_of(error))
    if isinstance(error, MemoryError):
        return _MEMORY
    # by names and words, not by types: torch may not even be loaded
    if type(error).__name__ == "OutOfMemoryError":
        return _GPU_MEMORY
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return _MEMORY
    return None


def _words_of(error: Exception) -> str:
    """What the system says: a path that is no folder, may not be written, or the like."""
    words = getattr(error, "strerror", None)
    return str(error) if words is None else str(words).lower()
