"""Files of single images, as others made them: looked at before they are decoded.

A file of half a megabyte can hold hundreds of millions of black pixels.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from vla.common.foreign.sizes import why_too_large
from vla.data.errors import DataError, is_lfs_pointer

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow's modes of one channel of 16 or 32 bits."""
_ERRORS = (
    *(OSError, SyntaxError, ValueError, struct.error, zlib.error, OverflowError, MemoryError),
    *(EOFError, IndexError, KeyError, TypeError, AttributeError, Image.DecompressionBombError),
)
"""What Pillow raises of damaged files, by where the damage is: a broken PNG is a SyntaxError."""


@contextlib.contextmanager
def opened_image(
    data: bytes, remedy: str, size: tuple[int, int] | None = None
) -> Iterator[Image.Image]:
    """An image file, of which only the header was read.

    Args:
        data: the file.
        remedy: what to do if it is damaged.
        size: (height, width) that it must have; any by default.

    Raises:
        DataError: it is no image, of another size, or would take far more memory than the file;
            and whatever Pillow raises in the block.
    """
    try:
        with warnings.catch_warnings():
            # of images that are absurdly large: they are measured here
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        with image:
            _check_size(image, data, size)
            yield image
    except DataError:
        raise
    except _ERRORS as error:
        if is_lfs_pointer(data):
            raise DataError(
                "a pointer of Git LFS, not the image itself: run `git lfs pull` in its folder"
            ) from error
        raise DataError(
            f"not a readable image file ({len(data)} bytes): {error or 'too large'}; {remedy}"
        ) from error


def _check_size(image: Image.Image, data: bytes, size: tuple[int, int] | None) -> None:
    width, height = image.size
    if size is not None and (height, width) != size:
        raise DataError(
            f"a picture of {height}x{width}, the spec says {size[0]}x{size[1]}; correct the spec "
            "or drop the episode"
        )
    problem = why_too_large(3 * width * height, len(data))
    if problem:
        raise DataError(f"a picture of {height}x{width} {problem}")


def decode_image(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """An image file (PNG, JPEG, WebP or BMP) -> uint8 (H, W, 3) RGB.

    Gray becomes RGB, an alpha channel is left out.

    Args:
        data: the file.
        size: (height, width) that it must have; any by default.

    Raises:
        DataError: it is no image, of another size, of more than 8 bits a channel, such as depth, or
            would take far more memory than the file.
    """
    with opened_image(data, "record the frame again", size) as image:
        # Pillow opens a PNG of 16 bits a channel as RGB of 8: only byte 24 of the file, the bit
        # depth, tells that half of it would be lost.
        deep_png = data[:8] == _PNG_SIGNATURE and data[24] > 8
        if image.mode in _DEEP or deep_png:
            raise DataError(
                "a picture of more than 8 bits a channel, such as depth, which would lose what it "
                "holds; leave the camera out, or store it as 8 bits"
            )
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def encode_png(image: np.ndarray) -> bytes:
    """uint8 (H, W, 3) RGB -> a PNG file."""
    buffer = io.BytesIO()
    # Level 1 costs a third of the default's time for a few per cent more bytes.
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def file_image_size(data: bytes, where: str) -> tuple[int, int]:
    """(height, width) of an image file, from its header. Raises DataError beginning with
    `where`."""
    try:
        with opened_image(data, "restore it") as image:
            return int(image.height), int(image.width)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


__all__ = ["decode_image", "encode_png", "file_image_size", "opened_image"]
