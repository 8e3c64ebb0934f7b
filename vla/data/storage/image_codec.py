"""An image of any dataset as a PNG file that the native format keeps, or as pixels."""

from __future__ import annotations

import numpy as np

from vla.data.format import Image
from vla.data.storage.image_files import decode_image, encode_png, opened_image

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB8 = (8, 2)
"""Bit depth and colour type of 8-bit RGB in a PNG header."""


def as_png(image: Image) -> bytes:
    """A PNG file of 8-bit RGB. Such a file is passed on byte for byte, its checksums compared; all
    else is encoded.

    Raises DataError if the image is damaged, or has more than 8 bits a channel.
    """
    if isinstance(image, np.ndarray):
        return encode_png(image)
    if image[:8] == _PNG_SIGNATURE and tuple(image[24:26]) == _RGB8:
        # Encoding again would cost the most time of a conversion and give the same pixels. But a
        # copy of a damaged file would carry a new checksum of the dataset: hence the look at its
        # own.
        _check_sums(image)
        return image
    return encode_png(decode_image(image))


def as_frame(image: Image, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 (H, W, 3) RGB. Raises DataError if the image is damaged, or a file of another
    (height, width) than `size`."""
    return decode_image(image, size) if isinstance(image, bytes) else image


def _check_sums(file: bytes) -> None:
    with opened_image(file, "leave its episode out") as image:
        image.verify()
