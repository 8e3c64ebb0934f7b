"""Arrays as type, shape and bytes: which ones travel, and how the three are checked.

A decoder that hands `dtype` to numpy unchecked can be made to build an array of object pointers
over bytes of the sender, which crashes the process when it is touched. Here types are looked up
by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_client.errors import WireError, shown

DTYPES = {
    name: np.dtype(name)
    for name in ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
}
MAX_DIMENSIONS = 5
MAX_EXTENT = 2**31 - 1


def sendable(array: np.ndarray, place: str) -> np.ndarray:
    """The array in a type that travels: big-endian numbers are turned round, their values kept.

    Raises `WireError` for objects, texts, dates, complex and long numbers, masked arrays, and for
    more than 5 dimensions.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise WireError(f"{place} is a masked array, and its mask would be lost: send `.filled(x)`")
    if array.ndim > MAX_DIMENSIONS:
        raise WireError(f"{place} has {array.ndim} dimensions, at most {MAX_DIMENSIONS} are sent")
    little = array.dtype.newbyteorder("<")
    if little.str not in DTYPES:
        raise WireError(
            f"{place} is an array of {array.dtype}, which is not sent: expected truth values, "
            "integers or floats of up to 64 bits, such as `numpy.asarray(x, numpy.float32)`"
        )
    return array.astype(little, copy=False)


def dtype_called(name: object, place: str) -> np.dtype:
    """The type of a name from a message; raises `WireError` unless it is one of `DTYPES`."""
    if not isinstance(name, str) or name not in DTYPES:
        raise WireError(
            f"{place}: dtype {shown(name)} is not accepted, expected one of {', '.join(DTYPES)}"
        )
    return DTYPES[name]


def checked_shape(shape: object, place: str) -> tuple[int, ...]:
    """The shape from a message; raises `WireError` unless it is up to 5 integers >= 0."""
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise WireError(f"{place}: shape {shown(shape)}, expected at most 5 integers")
    for extent in shape:
        if type(extent) is not int or not 0 <= extent <= MAX_EXTENT:
            raise WireError(f"{place}: extent {shown(extent)}, expected an integer from 0 on")
    return tuple(shape)


def from_wire(data: object, dtype: object, shape: object, place: str) -> np.ndarray:
    """An array of the three parts of a message: a read-only view of `data`.

    Raises `WireError` if the bytes do not fill the shape exactly.
    """
    kind = dtype_called(dtype, place)
    extents = checked_shape(shape, place)
    if not isinstance(data, bytes):
        raise WireError(f"{place}: data is {type(data).__name__}, expected bytes")
    expected = kind.itemsize
    for extent in extents:  # integers of Python: a product of numpy would wrap round
        expected *= extent
    if expected != len(data):
        raise WireError(
            f"{place}: {len(data)} bytes for shape {list(extents)} of {kind.str}, which takes "
            f"{shown(expected)}"
        )
    try:
        array: np.ndarray = np.ndarray(extents, kind, data)
    except ValueError as error:  # an empty array whose other extents are too large together
        raise WireError(f"{place}: shape {list(extents)} is too large") from error
    if kind.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        # a truth value stored as 2 is neither True nor False to compiled code
        raise WireError(f"{place}: a truth value is stored as another byte than 0 or 1")
    return array


def scalar_from_wire(value: object, dtype: object, place: str) -> Any:
    """A numpy scalar of a type and a plain value; raises `WireError` if it would not hold it."""
    kind = dtype_called(dtype, place)
    wanted = {"b": bool, "i": int, "u": int, "f": float}[kind.kind]
    if type(value) is not wanted:
        raise WireError(f"{place}: {shown(value)} is no {wanted.__name__} for {kind.str}")
    if kind.kind in "iu":
        bounds = np.iinfo(kind)
        if not bounds.min <= int(value) <= bounds.max:  # type: ignore[call-overload]
            raise WireError(f"{place}: {shown(value)} does not fit into {kind.str}")
    with np.errstate(over="ignore"):
        scalar = kind.type(value)
    if kind.kind == "f" and np.isinf(scalar) and abs(value) != np.inf:  # type: ignore[arg-type]
        raise WireError(f"{place}: {shown(value)} does not fit into {kind.str}")
    return scalar
