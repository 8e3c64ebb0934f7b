"""In which form an array of another maker holds a camera's images, and one of its rows as an image.

L: steps of an episode, H and W: image height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vla.data.errors import DataError
from vla.data.format import Image
from vla.data.storage.image_files import file_image_size

Kind = Literal["pixels", "channels first", "unit floats", "byte floats", "files"]
Read = Callable[[int, int], Any]
"""(first row, end row) -> these rows of the array."""

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_SMALLEST_FILE = 64
"""Bytes of the least JPEG: rows of fewer uint8 are numbers."""
_SMALLEST_SIDE = 8
"""Arrays of floats with shorter sides are tables of numbers, such as poses."""
_SMALLEST_DEPTH = 32
"""The same for arrays without a colour axis, such as chunks of actions."""
_NO_COLOURS = ("depth", "segm", "mask", "label", "disparity")
"""Words in names of what is no picture."""
_LOOKED_AT = 8
"""Images that say whether floats go to 1 or to 255."""


@dataclass(frozen=True)
class Pictures:
    """How a camera's images are stored.

    Attributes:
        kind: "files" are PNG or JPEG files, one per row.
        size: (height, width).
        first_axis: whether the axis of colours comes first.
        warning: what was assumed; empty if nothing was.
        channels: 3, or 4 of which the last is no colour, or 1 of grey.
        by_key: whether it is read if a key names it alone: what has one channel may be no colours.
    """

    kind: Kind
    size: tuple[int, int]
    first_axis: bool = False
    warning: str = ""
    channels: int = 3
    by_key: bool = False

    def image(self, row: Any, where: str) -> Image:
        """One row as an image: uint8 (H, W, 3), or the file. Raises DataError beginning with
        `where` if its numbers are no colours."""
        if self.kind == "files":
            return file_bytes(row)
        pixels = np.asarray(row)
        if self.kind in ("unit floats", "byte floats"):
            pixels = _bytes_of(pixels, 1 if self.kind == "unit floats" else 255, where)
        if self.channels == 1:
            pixels = np.repeat(pixels.reshape(*self.size, 1), 3, axis=2)
        elif self.first_axis:
            pixels = pixels.transpose(1, 2, 0)
        return np.ascontiguousarray(pixels[..., :3])

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape holds images of this form and size."""
        if self.kind == "files":
            return len(shape) in (1, 2)
        height, width = self.size
        if self.channels == 1:
            return int(np.prod(shape[1:], dtype=np.int64)) == height * width
        channels = self.channels
        expected = (channels, height, width) if self.first_axis else (height, width, channels)
        return shape[1:] == expected


def pictures_of(
    key: str,
    shape: tuple[int, ...],
    dtype: Any,
    read: Read,
) -> Pictures | str | None:
    """The form of the images in an array; why they cannot be read, as the end of a sentence; None
    if these are no images.

    Args:
        key: of the array; "depth" in it counts.
        shape: of the array, L first.
        dtype: of its numbers; object or bytes for rows of any length.
        read: its rows.
    """
    if not shape or not shape[0]:
        return None
    dtype = np.dtype(dtype)
    if dtype.kind in "OSV" and len(shape) == 1:
        return _files(read)
    if dtype == np.uint8 and len(shape) == 2 and shape[1] > _SMALLEST_FILE:
        return _files(read)
    if dtype.kind not in "biuf" or len(shape) < 3:
        return None
    if dtype != np.uint8 and not _has_sides(key, shape, dtype):
        return None
    described = f"{dtype} {tuple(shape)}"
    # (L, 3, H, 3) may be either: as everywhere, the last axis is asked first
    first_axis = len(shape) == 4 and shape[3] != 3 and shape[1] == 3
    if len(shape) != 4 or not (first_axis or shape[3] == 3):
        other = _of_other_channels(key, shape, dtype, read, described)
        if other is not None:
            return other
        return f"is {described}, no colour images (L, H, W, 3): {_other(key, shape)}"
    size = (int(shape[2]), int(shape[3])) if first_axis else (int(shape[1]), int(shape[2]))
    if dtype == np.uint8:
        if not first_axis:
            return Pictures("pixels", size)
        warning = f"is {described}: its first axis is taken for the colours"
        return Pictures("channels first", size, True, warning)
    if dtype.kind != "f":
        return f"is {described}, expected uint8: store its colours as 8 bits"
    return _floats(read, shape, size, first_axis, described)


def file_bytes(row: Any) -> bytes:
    """The image file in a row: bytes, or uint8 that zeros fill up to one length."""
    data = row if isinstance(row, bytes) else np.asarray(row).tobytes()
    # PNG and JPEG files do not end in zeros
    return data.rstrip(b"\0")


def is_image_file(data: bytes) -> bool:
    """Whether `data` begins as PNG, JPEG or WebP files do."""
    return data.startswith((_JPEG, _PNG)) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _files(read: Read) -> Pictures | str | None:
    rows = read(0, 1)
    row = rows[0]
    if not isinstance(row, bytes | np.ndarray | np.void):
        return None
    data = file_bytes(row)
    if not is_image_file(data):
        return None
    # the bit depth of a PNG is at byte 24
    if data.startswith(_PNG) and data[24] > 8:
        return "holds PNG files of 16 bits, such as depth"
    return Pictures("files", file_image_size(data, "its first image"))


def _has_sides(key: str, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether numbers other than bytes have the shape of pictures."""
    named = any(word in key.lower() for word in _NO_COLOURS)
    if len(shape) == 3:
        # floats (L, K, A) are chunks of actions, or tables
        return named or (min(shape[1:]) >= _SMALLEST_DEPTH and "image" in key.lower())
    sides = sorted(shape[1:])
    return named or sides[-2] >= _SMALLEST_SIDE


def _of_other_channels(
    key: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    read: Read,
    described: str,
) -> Pictures | None:
    """Grey images, and colours with an opacity; None if bytes are neither."""
    if dtype != np.uint8 or any(word in key.lower() for word in _NO_COLOURS):
        return None
    if len(shape) == 4 and shape[3] == 4 and min(shape[1:3]) >= _SMALLEST_SIDE:
        # four grey images of following steps have the same shape
        if any((read(row, row + 1)[..., 3] != 255).any() for row in _places(shape[0])):
            return None
        warning = f"is {described}: its fourth channel, which is 255, is left out as an opacity"
        return Pictures("pixels", (shape[1], shape[2]), warning=warning, channels=4)
    sides = tuple(side for side in shape[1:] if side != 1)
    if len(sides) != 2 or min(sides) < _SMALLEST_SIDE:
        return None
    warning = f"is {described}, grey images or another measurement"
    return Pictures("pixels", sides, warning=warning, channels=1, by_key=True)


def _places(rows: int) -> list[int]:
    """Rows from all over an episode: its first images may be dark."""
    return [int(row) for row in np.unique(np.linspace(0, rows - 1, _LOOKED_AT).astype(int))]


def _other(key: str, shape: tuple[int, ...]) -> str:
    channels = 1 if len(shape) == 3 else min(shape[1], shape[-1])
    if len(shape) > 4:
        return "several for each step"
    if channels == 1 or "depth" in key.lower():
        return "one channel, such as depth"
    return f"{channels} channels"


def _floats(
    read: Read,
    shape: tuple[int, ...],
    size: tuple[int, int],
    first_axis: bool,
    described: str,
) -> Pictures | str:
    looked_at = np.stack([np.asarray(read(row, row + 1))[0] for row in _places(shape[0])])
    low = float(looked_at.min())
    high = float(looked_at.max())
    if not (low >= 0 and high <= 255):
        return (
            f"is {described} with numbers from {low:g} to {high:g}, expected colours from 0 to 1 "
            "or to 255"
        )
    top: Literal[1, 255] = 1 if high <= 1 else 255
    kind: Kind = "unit floats" if top == 1 else "byte floats"
    warning = f"is {described}: its numbers are taken for colours from 0 to {top}"
    return Pictures(kind, size, first_axis, warning)


def _bytes_of(pixels: np.ndarray, top: int, where: str) -> np.ndarray:
    # `not <=` holds of NaN too
    if not (pixels.min() >= 0 and pixels.max() <= top):
        raise DataError(
            f"{where}: has colours from {pixels.min():g} to {pixels.max():g}, the first images "
            f"go from 0 to {top}; store them as uint8"
        )
    return np.rint(pixels * (255 // top)).astype(np.uint8)
