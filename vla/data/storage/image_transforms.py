"""Images of cameras that hang upside down, or whose colours were stored in another order.

`EpisodeDataset` applies this where images leave it, so that caches, streams, copies and pages all
see the same images.

H and W: image height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.data.errors import DataError
from vla.data.format import Image, KeyMap, Orientation
from vla.data.storage.image_files import decode_image
from vla.types import Spec

_SIDEWAYS = ("rotate_90", "rotate_270")
"""Orientations that make width of height."""


def turned(image: np.ndarray, orientation: Orientation | None, colours: str = "rgb") -> np.ndarray:
    """uint8 (H, W, 3) as stored -> uint8 RGB as it is meant, (W, H, 3) after a quarter turn.

    Args:
        orientation: see `vla.data.format.Orientation`; None leaves the image as it stands.
        colours: order that it is stored in, `rgb` or `bgr`.
    """
    if orientation == "rotate_90":
        image = np.rot90(image)
    elif orientation == "rotate_180":
        image = np.rot90(image, 2)
    elif orientation == "rotate_270":
        image = np.rot90(image, 3)
    elif orientation == "flip_up_down":
        image = image[::-1]
    elif orientation == "flip_left_right":
        image = image[:, ::-1]
    if colours == "bgr":
        image = image[..., ::-1]
    # all of the above are views that run backwards, which encoders do not take
    return np.ascontiguousarray(image)


class ImageTransforms:
    """What is done to the images of which cameras.

    Args:
        root: of the dataset, for messages.
        spec: as the reader found it.
        keys: whose `orientation` and `colours` count.

    Raises:
        DataError: they name a camera that the dataset does not have.
    """

    def __init__(self, root: Path, spec: Spec, keys: KeyMap) -> None:
        for key in ("orientation", "colours"):
            for camera in getattr(keys, key):
                if camera not in spec.cameras:
                    raise DataError(
                        f"{root}: keys.{key}: no camera {camera!r}; the dataset has: "
                        f"{', '.join(spec.cameras) or 'none'}"
                    )
        self._orientation = keys.orientation
        self._bgr = {camera for camera, order in keys.colours.items() if order == "bgr"}

    def spec(self, spec: Spec) -> Spec:
        """The reader's spec with the sizes that cameras have once they are turned."""
        cameras = {}
        for camera, (height, width) in spec.cameras.items():
            sideways = self._orientation.get(camera) in _SIDEWAYS
            cameras[camera] = (width, height) if sideways else (height, width)
        return dataclasses.replace(spec, cameras=cameras)

    def fingerprint(self) -> str:
        """Of what is done; empty if nothing is."""
        if not self._orientation and not self._bgr:
            return ""
        return f"{sorted(self._orientation.items())}{sorted(self._bgr)}"

    def apply(
        self, camera: str, images: Iterator[tuple[int, Image]]
    ) -> Iterator[tuple[int, Image]]:
        """(frame, image) of a reader -> the same, turned. Images of other cameras stay files."""
        orientation = self._orientation.get(camera)
        colours = "bgr" if camera in self._bgr else "rgb"
        if orientation is None and colours == "rgb":
            return images
        return _each_turned(images, orientation, colours)


def _each_turned(
    images: Iterator[tuple[int, Image]], orientation: Orientation | None, colours: str
) -> Iterator[tuple[int, Image]]:
    for frame, image in images:
        try:
            decoded = decode_image(image) if isinstance(image, bytes) else image
        except DataError:
            # passed on as it is: those that decode it name the frame, and go on with the next one
            yield frame, image
            continue
        yield frame, turned(decoded, orientation, colours)


__all__ = ["ImageTransforms", "turned"]
