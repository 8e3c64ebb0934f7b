"""Images at another size than the stored one, such as the one that a policy sees.

`EpisodeDataset` applies this where images leave it. Who decodes them resizes them at once, so that
no cache, stream or copy holds more pixels than are wanted.

h and w: height and width as stored, H and W: as wanted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from vla.data.errors import DataError
from vla.data.format import Image
from vla.data.storage.image_files import decode_image
from vla.types import ImageSize, Spec, resized


def resized_image(image: np.ndarray, size: ImageSize | tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) -> uint8 (H, W, 3), as policies resize what they see."""
    # torch refuses views that run backwards, and warns of memory that it may not write to
    plain = np.require(image, requirements=["C", "W"])
    return np.asarray(resized(torch.from_numpy(plain), size).numpy())


class ImageResizing:
    """Which cameras of a dataset have which size.

    Args:
        root: of the dataset, for messages.
        spec: of the dataset before.
        sizes: camera -> its size from now on; others stay as they are.
        before: what was done to the dataset already; the stored images are resized once.

    Attributes:
        sizes: camera -> size, without cameras that have it from the start.
        spec: of the dataset with these sizes.

    Raises KeyError if a camera does not exist.
    """

    def __init__(
        self,
        root: Path,
        spec: Spec,
        sizes: Mapping[str, ImageSize],
        *,
        before: ImageResizing | None = None,
    ) -> None:
        unknown = [camera for camera in sizes if camera not in spec.cameras]
        if unknown:
            has = ", ".join(spec.cameras) or "none"
            raise KeyError(f"no camera {unknown[0]!r}; the dataset has: {has}")
        self._root = root
        self._stored: Mapping[str, tuple[int, int]] = (
            spec.cameras if before is None else before._stored
        )
        wanted: dict[str, ImageSize] = {**({} if before is None else before.sizes), **sizes}
        self.sizes: dict[str, ImageSize] = {
            camera: size for camera, size in wanted.items() if self._stored[camera] != size[:2]
        }
        cameras = dict(self._stored) | {camera: size[:2] for camera, size in self.sizes.items()}
        self.spec = dataclasses.replace(spec, cameras=cameras)

    def apply(
        self, camera: str, images: Iterator[tuple[int, Image]]
    ) -> Iterator[tuple[int, Image]]:
        """(frame, image) as stored -> the same, resized. Images of other cameras stay files."""
        size = self.sizes.get(camera)
        return images if size is None else self._each(camera, images, size)

    def _each(
        self, camera: str, images: Iterator[tuple[int, Image]], size: ImageSize
    ) -> Iterator[tuple[int, Image]]:
        h, w = self._stored[camera]
        for frame, image in images:
            try:
                pixels = decode_image(image) if isinstance(image, bytes) else image
            except DataError:
                # passed on as it is: those that decode it name the frame
                yield frame, image
                continue
            # here alone: once resized, a frame of another size looks like all others
            if pixels.shape[:2] != (h, w):
                raise DataError(
                    f"{self._root}: frame {frame}: camera {camera!r} is {pixels.shape[0]}x"
                    f"{pixels.shape[1]}, the spec says {h}x{w}; correct the spec or drop the "
                    "episode"
                )
            yield frame, resized_image(pixels, size)


__all__ = ["ImageResizing", "resized_image"]
