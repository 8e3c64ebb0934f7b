"""Pictures as clients send them -> uint8 of the policy's size.

B robots; h and w: height and width of pictures as they come, H and W: as the policy expects them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image

from vla.common.errors import UserError
from vla.types import resized

Resize = Literal["none", "stretch", "pad"]
ROUNDING = 1e-3
"""Floats may leave 0 to 1 by as much: interpolation overshoots."""


def as_pictures(key: str, values: np.ndarray, size: tuple[int, int], resize: Resize) -> np.ndarray:
    """uint8 (B, H, W, 3), or (H, W, 3) if `values` have no batch axis.

    Args:
        key: the client's, for errors.
        values: uint8 0 to 255 or floats 0 to 1, channels last or first.
        size: (H, W).

    Raises UserError if they are no pictures, or of another size and `resize` is "none".
    """
    if values.ndim not in (3, 4):
        raise UserError(
            f"{key}: has shape {values.shape}, expected one picture (H, W, 3), or (B, H, W, 3)"
        )
    pictures = _channels_last(key, values)
    found = (pictures.shape[-3], pictures.shape[-2])
    if found != size and resize == "none":
        raise UserError(
            f"{key}: is {found[0]}x{found[1]}, the policy sees {size[0]}x{size[1]}: send that "
            "size, or start the server with resize=stretch or resize=pad"
        )
    pictures = _to_uint8(key, pictures)
    if found == size:
        return pictures
    if resize == "stretch":
        # a copy: what was received cannot be written to, and torch minds
        return resized(torch.from_numpy(np.array(pictures)), size).numpy()
    if pictures.ndim == 3:
        return with_borders(pictures, size)
    return np.stack([with_borders(picture, size) for picture in pictures])


def with_borders(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) -> (H, W, 3): the aspect is kept, the rest is black.

    As openpi prepares its pictures (`resize_with_pad` of openpi-client), pixel for pixel.
    """
    H, W = size
    h, w = picture.shape[:2]
    # a side that vanished would leave a black picture
    ratio = max(w / W, h / H)
    new_h, new_w = max(1, int(h / ratio)), max(1, int(w / ratio))
    small = Image.fromarray(picture).resize((new_w, new_h), Image.Resampling.BILINEAR)
    top, left = (H - new_h) // 2, (W - new_w) // 2
    result = np.zeros((H, W, 3), np.uint8)
    result[top : top + new_h, left : left + new_w] = np.asarray(small)
    return result


def _channels_last(key: str, values: np.ndarray) -> np.ndarray:
    if values.shape[-1] == 3:
        return values
    if values.shape[-3] == 3:
        return np.moveaxis(values, -3, -1)
    raise UserError(
        f"{key}: has shape {values.shape}, expected three channels (RGB), last or first"
    )


def _to_uint8(key: str, pictures: np.ndarray) -> np.ndarray:
    if pictures.dtype == np.uint8:
        return pictures
    if pictures.dtype.kind != "f":
        raise UserError(
            f"{key}: is {pictures.dtype}, expected uint8 (0 to 255) or floats from 0 to 1"
        )
    low, high = float(pictures.min()), float(pictures.max())
    # written so that NaN fails too
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise UserError(
            f"{key}: floats from {low:g} to {high:g}, expected 0 to 1; send pixels of 0 to 255 as "
            "uint8"
        )
    # openpi's clients cut the fraction off, so a picture is the same on both ways
    return (255 * np.clip(pictures, 0, 1)).astype(np.uint8)
