"""How much a file of others may unpack to: compared with its header before anything is unpacked.

A few megabytes can stand for any number of equal rows or black pixels. What was recorded shrinks by
a few times, seldom by ten.
"""

from __future__ import annotations

import math
import os

from vla.common.errors import UserError

FREE_BYTES = 256 * 2**20
"""That any file may unpack to."""
PER_STORED_BYTE = 50
"""Beyond that, for each byte of the file."""
LIMIT_VARIABLE = "VLA_UNPACK_GIB"
"""Environment variable that raises the limit, in GiB."""
_ABSURD = 2**50  # bytes: no machine unpacks so much


def most_unpacked(stored: int) -> int:
    """Bytes to which a file of `stored` bytes may unpack.

    Raises UserError if the environment variable `VLA_UNPACK_GIB` is no number above 0.
    """
    return max(FREE_BYTES, PER_STORED_BYTE * stored, _raised())


def why_too_large(unpacked: int, stored: int) -> str:
    """The end of a sentence if `unpacked` bytes are too many for a file of `stored` bytes, with
    what to do; empty if they are not.

    Raises UserError as `most_unpacked`.
    """
    limit = most_unpacked(stored)
    if unpacked <= limit:
        return ""
    problem = f"would take {shown(unpacked)} of memory for a file of {shown(stored)}"
    if unpacked > _ABSURD:
        return f"{problem}; copy it from its source"
    needed = math.ceil(unpacked / 2**30)
    return (
        f"{problem}, expected at most {shown(limit)}; if that is right, set the environment "
        f"variable: `export {LIMIT_VARIABLE}={needed}`"
    )


def shown(size: int) -> str:
    """A number of bytes with its unit: 12 bytes, 3.4 MiB."""
    if size < 1024:
        return f"{size} bytes"
    for unit, power in (("KiB", 10), ("MiB", 20), ("GiB", 30)):
        if size < 2 ** (power + 10):
            return f"{size / 2**power:.3g} {unit}"
    return f"more than {_ABSURD // 2**40} TiB" if size > _ABSURD else f"{size / 2**40:.3g} TiB"


def _raised() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return 0
    try:
        gib = float(text)
    except ValueError:
        gib = math.nan
    if not 0 < gib < _ABSURD / 2**30:
        raise UserError(
            f"{LIMIT_VARIABLE}: {text!r} is no number of GiB; write for example "
            f"`export {LIMIT_VARIABLE}=4`"
        )
    return int(gib * 2**30)


__all__ = ["FREE_BYTES", "LIMIT_VARIABLE", "most_unpacked", "shown", "why_too_large"]
