"""Headers of image files."""

from __future__ import annotations

import io
import struct
import warnings

from PIL import Image

from vla.data.errors import DataError, is_lfs_pointer


def file_image_size(data: bytes, where: str) -> tuple[int, int]:
    """(height, width) of an image file, from its header. Raises DataError beginning with
    `where`."""
    # Opening reads the header alone. Pillow warns of images that are absurdly large: an error here.
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("error")
            width, height = image.size
    except (
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
        Image.DecompressionBombError,
        Warning,
    ) as error:
        if is_lfs_pointer(data):
            raise DataError(
                f"{where}: is a pointer of Git LFS, not the image itself: run `git lfs pull` in "
                "the dataset's folder"
            ) from error
        raise DataError(
            f"{where}: is no image file ({len(data)} bytes): {error}; restore it"
        ) from error
    return int(height), int(width)
