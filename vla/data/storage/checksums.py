"""Files that carry a checksum of themselves: any byte that changes later is found, without a second
file that could be older.

The checksum is the CRC-32 of the whole file, taken with its own eight digits as zeros. It stands as
`vla-crc32:0123abcd` in JSON under the key `checksum`, in parquet among the key-value metadata of
the footer, in mp4 in a `free` box at the end.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
import zlib
from pathlib import Path
from typing import Any

from vla.common.atomic import atomic_path

CHECKSUM = "checksum"
"""Key of the checksum in JSON and parquet."""
_MARK = b"vla-crc32:"
BLANK = (_MARK + b"0" * 8).decode()
"""What a file holds in place of its checksum until that is known."""
_DIGITS = re.compile(rb"[0-9a-f]{8}")
_PIECE = 2**22


def add_checksum(path: Path) -> None:
    """Puts the checksum in place of the last `BLANK` of a file."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        # the last: instructions and metadata of users stand before it, and may hold the mark
        place = content.rfind(_MARK) + len(_MARK)
        content[place : place + 8] = b"%08x" % _crc_without(content, place)


def is_whole(path: Path) -> bool | None:
    """Whether the file is what was written; None if it carries no checksum. Raises OSError."""
    with open(path, "rb") as file:
        if not path.stat().st_size:  # nothing can be mapped of an empty file
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = content.rfind(_MARK)
            if found < 0:
                return None
            place = found + len(_MARK)
            digits = content[place : place + 8]
            # `int` alone would take signs, blanks and underscores for digits
            if not _DIGITS.fullmatch(digits):
                return False
            return int(digits, 16) == _crc_without(content, place)


def write_checksummed_json(path: Path, value: dict[str, Any]) -> None:
    """As `write_json`, with the checksum as last key."""
    with atomic_path(path) as temporary:
        others = {key: v for key, v in value.items() if key != CHECKSUM}
        text = json.dumps(others | {CHECKSUM: BLANK}, indent=2, allow_nan=False)
        temporary.write_text(text + "\n")
        add_checksum(temporary)


def free_box() -> bytes:
    """What ends an mp4 file that is to carry a checksum; players skip it."""
    # a box of ISO 14496-12: its size in all, its type, its content
    header = struct.pack(">I4s", 8 + len(BLANK), b"free")
    return header + BLANK.encode()


def _crc_without(content: mmap.mmap, place: int) -> int:
    """CRC-32 of the content, with the eight bytes at `place` as zeros."""
    value = _continued(0, content, 0, place)
    value = zlib.crc32(b"0" * 8, value)
    return _continued(value, content, place + 8, len(content))


def _continued(
    value: int,
    content: mmap.mmap,
    start: int,
    stop: int,
) -> int:
    # in pieces: a slice of a mapped file is a copy in memory
    for at in range(start, stop, _PIECE):
        value = zlib.crc32(content[at : min(at + _PIECE, stop)], value)
    return value
