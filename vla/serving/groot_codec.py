"""GR00T's wire form: msgpack in which an array is a map with a .npy file.

Source: Isaac-GR00T, gr00t/policy/server_client.py (N1.6, N1.7) and gr00t/eval/service.py (N1.5).
The file is taken apart here: numpy's own reader evaluates its header, and trusts the shape in it.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np

from vla_client import arrays
from vla_client.errors import WireError
from vla_client.reading import Key, Limits, Reader
from vla_client.writing import pack_with, refuse_marker

ARRAY = frozenset(("__ndarray_class__", "as_npy"))
_MAGIC = b"\x93NUMPY\x01\x00"
# as numpy writes it, and nothing else
_HEADER = re.compile(
    r"\{'descr': '([<|]\w{2})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,10}, ?)*(?:\d{1,10})?)\), \} *\n",
    re.ASCII,
)


def pack(value: Any) -> bytes:
    """A message of numbers, texts, lists, maps with text keys, and arrays.

    Raises WireError, which names the key, for any other value.
    """
    return pack_with(_encode, value)


def unpack(data: bytes, limits: Limits) -> Any:
    """The value of a message; its arrays are read-only.

    Raises WireError if the message is damaged, exceeds `limits`, or holds anything else than `pack`
    writes.
    """
    return _GrootReader(data, limits).message()


def _encode(value: np.ndarray | np.generic, place: str) -> Any:
    array = arrays.sendable(np.asanyarray(value), place)
    if isinstance(value, np.generic):
        return array.item()
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


class _GrootReader(Reader):
    def finish_map(self, entries: dict[Key, Any], place: str) -> Any:
        if any(isinstance(key, bytes) for key in entries):
            raise WireError(f"{place} has bytes keys, expected text: they are openpi's protocol")
        if set(entries) == ARRAY and entries["__ndarray_class__"] is True:
            return _from_npy(entries["as_npy"], place)
        for key in entries:
            refuse_marker(key, place)
        return entries


def _from_npy(file: object, place: str) -> np.ndarray:
    """The array of a .npy file of version 1. Raises WireError if it is none."""
    if not isinstance(file, bytes) or not file.startswith(_MAGIC) or len(file) < 10:
        raise WireError(f"{place}: expected a .npy file of version 1, as numpy.save writes it")
    end = 10 + int.from_bytes(file[8:10], "little")
    header = _HEADER.fullmatch(file[10:end].decode("latin-1"))
    if header is None:
        raise WireError(f"{place}: the header of the .npy file is not as numpy.save writes it")
    dtype, is_reversed, extents = header.groups()
    shape = [int(extent) for extent in extents.replace(" ", "").split(",") if extent]
    if is_reversed == "True":  # the first axis runs fastest
        return arrays.from_wire(file[end:], dtype, shape[::-1], place).T
    return arrays.from_wire(file[end:], dtype, shape, place)


__all__ = ["pack", "unpack"]
