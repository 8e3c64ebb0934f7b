"""Values made ready for msgpack: arrays in a protocol's form, and errors that name the place."""

from __future__ import annotations

from typing import Any, Callable, Union

import msgpack
import numpy as np

from vla_client.errors import WireError, shown

MAX_DEPTH = 8
MARKERS = ("__ndarray__", "__npgeneric__", "__image__", "__ndarray_class__")
"""Keys by which a protocol marks a map as an array. Nobody else may use them."""

Encode = Callable[[Union[np.ndarray, np.generic], str], Any]


def pack_with(encode: Encode, value: Any) -> bytes:
    """One message; `encode` gives the form of an array or a numpy scalar.

    Raises `WireError` if a value is of no kind that travels.
    """
    plain = _plain(value, encode, "message", 0)
    try:
        packed: bytes = msgpack.packb(plain, use_bin_type=True)
    except (OverflowError, UnicodeEncodeError, ValueError) as error:
        raise WireError(f"the message cannot be packed: {shown(str(error), 120)}") from error
    return packed


def refuse_marker(key: object, place: str) -> None:
    """Raises `WireError` if a map uses a key that marks arrays."""
    if key in MARKERS:
        raise WireError(f"{place} has the key {shown(key)}, which marks an array in some protocol")


def _plain(value: Any, encode: Encode, place: str, depth: int) -> Any:
    # numpy.float64 and numpy.str_ are a float and a str of Python, and travel as those
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return encode(value, place)
    if not isinstance(value, (dict, list, tuple)):
        raise WireError(
            f"{place} is {type(value).__name__}, expected a number, text, bytes, list, map or "
            "numpy array, such as `numpy.asarray(x)`"
        )
    if depth >= MAX_DEPTH:
        raise WireError(f"{place} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return _plain_map(value, encode, place, depth)
    return [_plain(v, encode, f"{place}[{i}]", depth + 1) for i, v in enumerate(value)]


def _plain_map(value: dict[Any, Any], encode: Encode, place: str, depth: int) -> dict[str, Any]:
    plain = {}
    for key, inner in value.items():
        if not isinstance(key, str):
            raise WireError(f"{place} has the key {shown(key)}, expected text")
        refuse_marker(key, place)
        plain[key] = _plain(inner, encode, shown(key), depth + 1)
    return plain
