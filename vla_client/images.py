"""Images made ready for a policy as openpi's robots do it, pixel for pixel.

Source: openpi, packages/openpi-client/src/openpi_client/image_tools.py.
"""

from __future__ import annotations

import numpy as np

from vla_client.errors import ClientError


def convert_to_uint8(image: np.ndarray) -> np.ndarray:
    """An image of floats in [0, 1] as uint8, rounded down as openpi does; uint8 is left as it is.

    Raises `ClientError` for floats outside of [0, 1], which would wrap round, and other types.
    """
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ClientError(f"the image is {image.dtype}, expected uint8 or floats in [0, 1]")
    # written so that NaN fails it
    if image.size and not (image.min() >= 0 and image.max() <= 1):
        raise ClientError(
            f"the image's floats lie in [{image.min():g}, {image.max():g}], expected [0, 1]: "
            "divide by 255 first"
        )
    return (255 * image).astype(np.uint8)


def resize_with_pad(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images uint8 (..., h, w, C) fitted into (..., height, width, C), bilinear, black around them.

    Needs pillow. Raises `ClientError` if pillow is missing or an image is no uint8.
    """
    images = np.asarray(images)
    if images.ndim < 3 or images.dtype != np.uint8:
        raise ClientError(
            f"the image is {images.dtype} {list(images.shape)}, expected uint8 (..., h, w, C): "
            "convert_to_uint8(image)"
        )
    if height < 1 or width < 1:
        raise ClientError(f"resize_with_pad to {height}x{width}, expected a size of at least 1x1")
    if images.shape[-3:-1] == (height, width):
        return images
    flat = images.reshape((-1, *images.shape[-3:]))
    fitted = np.zeros((len(flat), height, width, images.shape[-1]), np.uint8)
    for i, image in enumerate(flat):
        fitted[i] = _fitted(image, height, width)
    return fitted.reshape((*images.shape[:-3], *fitted.shape[1:]))


def _fitted(image_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ClientError("resizing needs pillow: pip install pillow") from error
    h, w, channels = image_HWC.shape
    ratio = max(w / width, h / height)
    # at least a pixel: a very long image would otherwise vanish
    h, w = max(1, int(h / ratio)), max(1, int(w / ratio))
    picture = Image.fromarray(image_HWC[:, :, 0] if channels == 1 else image_HWC)
    resized = np.asarray(picture.resize((w, h), Image.Resampling.BILINEAR)).reshape(h, w, channels)
    top, left = (height - h) // 2, (width - w) // 2
    padded = np.zeros((height, width, channels), np.uint8)
    padded[top : top + h, left : left + w] = resized
    return padded
