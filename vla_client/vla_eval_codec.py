"""The wire form of the vla-eval harness: text keys, and images as PNG or JPEG.

Every message is a map {`type`, `payload`, `seq`, `timestamp`}, which is the caller's affair; here
are its arrays. Source: vla-eval 0.8.0, protocol/numpy_codec.py and protocol/image_codec.py.
"""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np

from vla_client import arrays
from vla_client.errors import WireError, shown
from vla_client.reading import Key, Limits, Reader
from vla_client.writing import pack_with, refuse_marker

__all__ = ["Limits", "WireError", "pack", "unpack"]

ARRAY = frozenset(("__ndarray__", "data", "dtype", "shape"))
COMPRESSED = frozenset(("__image__", "format", "data", "shape"))
RAW = COMPRESSED | {"dtype"}
MODES = ("L", "RGB", "RGBA")


def pack(value: Any, image_format: str = "png") -> bytes:
    """A message; uint8 arrays (H, W, 1, 3 or 4) go as `image_format`: png, jpeg or raw.

    Numpy scalars arrive as plain numbers. JPEG takes three channels, and loses detail: other images
    go as PNG. Raises `WireError`, which names the key, for a value of no kind that travels.
    """
    if image_format not in ("png", "jpeg", "raw"):
        raise WireError(f"image_format={shown(image_format)}, expected png, jpeg or raw")
    return pack_with(partial(_encode, image_format=image_format), value)


def unpack(data: bytes, limits: Limits = Limits()) -> Any:  # noqa: B008 - frozen
    """The value of a message; its arrays are read-only.

    Raises `WireError` if the message is damaged, exceeds `limits`, or holds anything else than
    `pack` writes.
    """
    return _VlaEvalReader(data, limits).message()


def _encode(
    value: np.ndarray | np.generic, place: str, image_format: str
) -> dict[str, Any] | bool | int | float:
    array = arrays.sendable(np.asanyarray(value), place)
    if isinstance(value, np.generic):
        plain: bool | int | float = array.item()
        return plain
    picture = array.ndim == 3 and array.dtype == np.uint8 and array.shape[2] in (1, 3, 4)
    if picture and array.size and image_format != "raw":
        return _compressed(array, image_format)
    # their own form of "raw" is that of any array
    return {
        "__ndarray__": True,
        "data": array.tobytes(),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }


def _compressed(image_HWC: np.ndarray, image_format: str) -> dict[str, Any]:
    from PIL import Image

    channels = image_HWC.shape[2]
    used = image_format if channels == 3 else "png"
    flat = image_HWC[:, :, 0] if channels == 1 else image_HWC
    buffer = io.BytesIO()
    quality = {"quality": 95} if used == "jpeg" else {}
    Image.fromarray(flat).save(buffer, used.upper(), **quality)
    return {
        "__image__": True,
        "format": used,
        "data": buffer.getvalue(),
        "shape": list(image_HWC.shape),
    }


class _VlaEvalReader(Reader):
    def __init__(self, data: bytes, limits: Limits) -> None:
        super().__init__(data, limits)
        self.pixels_left = limits.max_pixels

    def finish_map(self, entries: dict[Key, Any], place: str) -> Any:
        keys = set(entries)
        if any(isinstance(key, bytes) for key in keys):
            raise WireError(f"{place} has bytes keys, expected text: they are openpi's protocol")
        if keys == ARRAY and entries["__ndarray__"] is True:
            return arrays.from_wire(entries["data"], entries["dtype"], entries["shape"], place)
        if keys in (COMPRESSED, RAW) and entries["__image__"] is True:
            return self._image(entries, place)
        for key in keys:
            refuse_marker(key, place)
        return entries

    def _image(self, entries: dict[Key, Any], place: str) -> np.ndarray:
        form, data = entries["format"], entries["data"]
        if form == "raw":
            if entries.get("dtype") != "|u1":
                raise WireError(f"{place}: an image of {shown(entries.get('dtype'))}, expected |u1")
            return arrays.from_wire(data, "|u1", entries["shape"], place)
        if form not in ("png", "jpeg") or not isinstance(data, bytes):
            raise WireError(f"{place}: image format {shown(form)}, expected png, jpeg or raw")
        shape = arrays.checked_shape(entries["shape"], place)
        array = self._decoded(data, str(form), place)
        if array.ndim == 2 and len(shape) == 3:  # one channel: Pillow drops its axis
            array = array[:, :, None]
        if array.shape != shape:
            raise WireError(f"{place}: the image is {list(array.shape)}, its map {list(shape)}")
        array.setflags(write=False)
        return array

    def _decoded(self, data: bytes, form: str, place: str) -> np.ndarray:
        from PIL import Image

        try:
            # only the header is read here; pixels are unpacked after they have been counted
            with Image.open(io.BytesIO(data), formats=[form.upper()]) as image:
                self._count_pixels(image.size[0] * image.size[1], place)
                if image.mode not in MODES:
                    raise WireError(f"{place}: image mode {image.mode}, expected {MODES}")
                return np.array(image)
        except WireError:
            raise
        except Exception as error:  # the decoders raise errors of a dozen kinds for damaged files
            raise WireError(f"{place}: damaged {form}: {shown(str(error))}") from error

    def _count_pixels(self, pixels: int, place: str) -> None:
        self.pixels_left -= pixels
        if self.pixels_left < 0:
            raise WireError(f"{place}: more than {self.limits.max_pixels} pixels in one message")
