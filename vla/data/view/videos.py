"""Films of cameras, small enough to lie inside a page.

H.264 in mp4 plays in every common browser. Where there is no encoder for it, a film is one WebP image with all frames side
by side, which the page cuts up again: an animated WebP could not be set to a frame.

H and W: image height and width.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vla.data.errors import DataError
from vla.data.reader import EpisodeDataset
from vla.data.storage.image_codec import as_frame
from vla.data.storage.video import VideoConfig, encode_into

FASTEST = 30.0
"""Frames per second that a film needs at most; of faster robots every second, third, ... frame is shown."""
SHEET_FRAMES = 400
SHEET_SIDE = 128
THUMBNAIL_SIDE = 72


@dataclass(frozen=True)
class Quality:
    """Longest side in pixels, and H.264's crf: lower is better and larger."""

    side: int
    crf: int


QUALITIES = (Quality(256, 26), Quality(192, 30), Quality(128, 34))


@dataclass(frozen=True)
class Film:
    """An encoded film, and how a page finds the frame of a step.

    Attributes:
        source: address of the film, with the film inside.
        size: (width, height) in pixels.
        frames: how many there are.
        stride: steps from one frame to the next.
        columns: frames in a row of a sheet; 0 where the film is a video.
    """

    source: str
    size: tuple[int, int]
    frames: int
    stride: int
    columns: int = 0


def has_video() -> bool:
    """Whether the video library is installed, with an encoder for H.264 (builds under the LGPL have none)."""
    try:
        import av

        av.Codec("libx264", "w")
    except (ImportError, ValueError):
        return False
    return True


def make_film(
    dataset: EpisodeDataset,
    camera: str,
    start: int,
    stop: int,
    quality: Quality,
    *,
    video: bool | None = None,
) -> Film:
    """A film of the frames [start, stop) of the dataset.

    Args:
        video: as H.264; False makes a sheet, and None a video where there is an encoder.

    Raises:
        DataError: an image is damaged or missing.
    """
    rate = dataset.spec.control_hz
    stride = max(1, int(np.ceil(rate / FASTEST)))
    if has_video() if video is None else video:
        return _video(
            _scaled(dataset, camera, start, stop, stride, quality.side),
            rate / stride,
            stride,
            quality,
        )
    stride = max(stride, -(-(stop - start) // SHEET_FRAMES))
    return _sheet(
        list(_scaled(dataset, camera, start, stop, stride, min(quality.side, SHEET_SIDE))), stride
    )


def thumbnail(dataset: EpisodeDataset, camera: str, frame: int) -> str:
    """The address of one frame as a tiny image. Raises DataError where it is damaged."""
    image = next(_scaled(dataset, camera, frame, frame + 1, 1, THUMBNAIL_SIDE))
    return _webp(image, 50)


def _scaled(
    dataset: EpisodeDataset, camera: str, start: int, stop: int, stride: int, side: int
) -> Iterator[np.ndarray]:
    """Every stride-th frame, uint8 (H, W, 3) of even height and width, as H.264 needs them, no side above `side`."""
    kept = start
    for frame, picture in dataset.images(camera, start, stop):
        if frame != kept:
            continue
        kept += stride
        try:
            image = as_frame(picture)
        except DataError as error:
            raise DataError(f"frame {frame}, camera {camera!r}: {error}") from error
        factor = min(1.0, side / max(image.shape[:2]))
        height, width = (max(2, 2 * round(factor * length / 2)) for length in image.shape[:2])
        if (height, width) != image.shape[:2]:
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
        yield image


def _video(frames: Iterable[np.ndarray], fps: float, stride: int, quality: Quality) -> Film:
    size, count = (0, 0), 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal size, count
        for image in frames:
            size, count = (image.shape[1], image.shape[0]), count + 1
            yield image

    file = io.BytesIO()
    encode_into(file, counted(), fps, VideoConfig(crf=quality.crf, gop=12), name="film")
    return Film(_address("video/mp4", file.getvalue()), size, count, stride)


def _sheet(frames: list[np.ndarray], stride: int) -> Film:
    height, width = frames[0].shape[:2]
    columns = int(np.ceil(np.sqrt(len(frames))))
    rows = -(-len(frames) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, image in enumerate(frames):
        y, x = height * (i // columns), width * (i % columns)
        sheet[y : y + height, x : x + width] = image
    return Film(_webp(sheet, 60), (width, height), len(frames), stride, columns)


def _webp(image: np.ndarray, quality: int) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="WEBP", quality=quality)
    return _address("image/webp", file.getvalue())


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
