"""openpi's wire form: msgpack in which a numpy array is a map with the bytes key `__ndarray__`.

What `pack` writes, `openpi_client.msgpack_numpy` reads, and the other way round. `unpack` accepts a
list of types and shapes and nothing else: no pickle, no extension types, no array of objects.

Source: openpi, packages/openpi-client/src/openpi_client/msgpack_numpy.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_client import arrays
from vla_client.errors import WireError, shown
from vla_client.reading import Key, Limits, Reader
from vla_client.writing import pack_with, refuse_marker

__all__ = ["Limits", "WireError", "pack", "unpack"]

ARRAY = frozenset((b"__ndarray__", b"data", b"dtype", b"shape"))
SCALAR = frozenset((b"__npgeneric__", b"data", b"dtype"))


def pack(value: Any) -> bytes:
    """A message of numbers, texts, bytes, lists, maps with text keys, arrays and numpy scalars.

    Tuples arrive as lists. Raises `WireError`, which names the key, for any other value.
    """
    return pack_with(_encode, value)


def unpack(data: bytes, limits: Limits = Limits()) -> Any:  # noqa: B008 - frozen
    """The value of a message. Its arrays are read-only views: copy one before writing into it.

    Raises `WireError` if the message is damaged, exceeds `limits`, or holds anything else than
    `pack` writes.
    """
    return _OpenpiReader(data, limits).message()


def _encode(value: np.ndarray | np.generic, place: str) -> dict[bytes, Any]:
    array = arrays.sendable(np.asanyarray(value), place)
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": array.item(), b"dtype": array.dtype.str}
    # the order of the keys is openpi's, so that equal values are equal bytes
    return {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": array.dtype.str,
        b"shape": list(array.shape),
    }


class _OpenpiReader(Reader):
    def finish_map(self, entries: dict[Key, Any], place: str) -> Any:
        marks = {key for key in entries if isinstance(key, bytes)}
        if not marks:
            for key in entries:
                refuse_marker(key, place)
            return entries
        if len(marks) != len(entries):
            raise WireError(f"{place} mixes text keys and bytes keys")
        if marks == ARRAY and entries[b"__ndarray__"] is True:
            return arrays.from_wire(entries[b"data"], entries[b"dtype"], entries[b"shape"], place)
        if marks == SCALAR and entries[b"__npgeneric__"] is True:
            return arrays.scalar_from_wire(entries[b"data"], entries[b"dtype"], place)
        raise WireError(f"{place} has the bytes keys {shown(sorted(marks))}, which mark no array")
