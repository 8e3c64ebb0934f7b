"""How much freed memory the C library keeps for the next step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT = 512 * 2**20
_GREATEST = 32 * 2**20  # that glibc allows


def keep_freed_memory() -> bool:
    """Lets glibc keep up to 512 MiB of what is freed. Returns whether it does.

    A training step allocates what the step before has freed. By default glibc gives large blocks
    back to the system each time, which then has to clear every page again: a fifth of a step whose
    critics judge thousands of actions. Other C libraries, and systems without one, stay as they
    are.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    # both: a block above the second threshold is mapped, and never kept by the first
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT) and mallopt(_MMAP_THRESHOLD, _GREATEST))


__all__ = ["keep_freed_memory"]
