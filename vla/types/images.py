"""The size of a camera's images, and the one way in which uint8 images are brought to a size.

h and w: height and width of images as they are, H and W: as they are to be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

Kernel = Literal["bilinear", "bicubic"]
_WRITTEN = re.compile(r"(\d+)(?:x(\d+)(?:-(\w+))?)?")


class ImageSize(NamedTuple):
    """A size in pixels, and how larger or smaller images are brought to it.

    Attributes:
        height, width: in pixels. Images of another aspect are stretched.
        kernel: of the interpolation, always antialiased where an image shrinks.
    """

    height: int
    width: int
    kernel: Kernel = "bilinear"

    def __str__(self) -> str:
        """`96x128`, or `96x128-bicubic`; read back by `parse`."""
        kernel = "" if self.kernel == "bilinear" else f"-{self.kernel}"
        return f"{self.height}x{self.width}{kernel}"

    def shrinks(self, size: Sequence[int]) -> bool:
        """Whether images of another size, (h, w), have more pixels than these."""
        return self.height * self.width < size[0] * size[1]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `96` (a square), `96x128` (height x width) or `96x128-bicubic`. Raises ValueError."""
        written = _WRITTEN.fullmatch(text.strip())
        kernel = (written and written[3]) or "bilinear"
        if written is None or kernel not in get_args(Kernel):
            raise ValueError(f"{text!r}: expected HEIGHTxWIDTH such as 96x128, or one number")
        height = int(written[1])
        width = int(written[2] or written[1])
        if not (height and width):
            raise ValueError(f"{text!r}: height and width are at least 1")
        return cls(height, width, cast(Kernel, kernel))


def resized(
    images: UInt8[Tensor, "*B h w 3"],
    size: ImageSize | tuple[int, int],
) -> UInt8[Tensor, "*B H W 3"]:
    """Images of another size, rounded to the nearest level; the same tensor if they have it.

    Within one level of Pillow, and of bilinear resizing in floating point.
    """
    height, width, kernel = ImageSize(*size)
    if tuple(images.shape[-3:-1]) == (height, width):
        return images
    pixels = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2)
    # on the CPU whole numbers are some eight times as fast, and round as floats do
    exact = pixels if images.device.type == "cpu" else pixels.float()
    options: dict[str, Any] = {"mode": kernel, "antialias": True}
    scaled = F.interpolate(exact, size=(height, width), **options)
    if scaled.dtype != torch.uint8:
        scaled = scaled.round().clamp(0, 255).byte()
    return scaled.permute(0, 2, 3, 1).reshape(*images.shape[:-3], height, width, 3)


__all__ = ["ImageSize", "Kernel", "resized"]
