"""A picture of any dataset as a PNG file that the native format keeps, or as pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from vla.data.episode import decode_png, encode_png
from vla.data.errors import DataError
from vla.data.format import Picture

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB8 = (8, 2)
"""Bit depth and colour type of 8-bit RGB in a PNG header."""


def as_png(picture: Picture) -> bytes:
    """A PNG file of 8-bit RGB. Such a file is passed on byte for byte, its checksums compared; all
    else is encoded.

    Raises DataError if the picture is damaged, or has more than 8 bits a channel.
    """
    if isinstance(picture, np.ndarray):
        return encode_png(picture)
    if picture[:8] == _PNG_SIGNATURE and tuple(picture[24:26]) == _RGB8:
        _check_sums(picture)
        return picture
    return encode_png(decode_png(picture))


def as_frame(picture: Picture) -> np.ndarray:
    """uint8 (H, W, 3) RGB. Raises DataError if the picture is damaged."""
    return decode_png(picture) if isinstance(picture, bytes) else picture


def _check_sums(file: bytes) -> None:
    try:
        with Image.open(io.BytesIO(file)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"not a readable image file ({len(file)} bytes): {error}; leave its episode out"
        ) from error
