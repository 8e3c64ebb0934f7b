"""Videos of cameras, small enough to lie inside a page.

H.264 in mp4 plays in every common browser. If there is no encoder for it, a video is one WebP image
with all frames side by side, which the page cuts up again: an animated WebP could not be set to a
frame.

H and W: image height and width.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vla.data.errors import DataError
from vla.data.reader import EpisodeDataset
from vla.data.storage.image_codec import as_frame
from vla.data.storage.video import VideoConfig, encode_into

FASTEST = 30.0
"""Frames per second; of faster robots every second, third, ... frame is shown."""
SHEET_FRAMES = 400
SHEET_SIDE = 128
THUMBNAIL_SIDE = 72


@dataclass(frozen=True)
class Quality:
    """Longest side in pixels, and H.264's crf: lower is better and larger."""

    side: int
    crf: int


QUALITIES = (
    Quality(256, 26),
    Quality(192, 30),
    Quality(128, 34),
)
"""The best first."""


@dataclass(frozen=True)
class CameraVideo:
    """An encoded video of one camera, and how a page finds the frame of a step.

    Attributes:
        source: address of the video, with the video inside.
        size: (width, height) in pixels.
        frames: how many there are.
        stride: steps from one frame to the next.
        columns: frames in a row of a sheet; 0 if it is a video file.
    """

    source: str
    size: tuple[int, int]
    frames: int
    stride: int
    columns: int = 0


def has_video() -> bool:
    """Whether the video library is installed, with an encoder for H.264."""
    try:
        import av

        # builds under the LGPL have none
        av.Codec("libx264", "w")
    except (ImportError, ValueError):
        return False
    return True


def encode_camera(
    dataset: EpisodeDataset,
    camera: str,
    start: int,
    stop: int,
    quality: Quality,
    *,
    video: bool | None = None,
) -> CameraVideo:
    """A video of the frames [start, stop) of the dataset.

    Args:
        video: as H.264; False makes a sheet, and None a video file if there is an encoder.

    Raises:
        DataError: an image is damaged or missing.
    """
    rate = dataset.spec.control_hz
    stride = max(1, int(np.ceil(rate / FASTEST)))
    if has_video() if video is None else video:
        frames = _scaled(dataset, camera, start, stop, stride, quality.side)
        return _video_file(frames, rate / stride, stride, quality)
    # all frames of a sheet are decoded at once by the browser: fewer and smaller ones
    stride = max(stride, -(-(stop - start) // SHEET_FRAMES))
    side = min(quality.side, SHEET_SIDE)
    frames = _scaled(dataset, camera, start, stop, stride, side)
    return _sheet(list(frames), stride)


def thumbnail(dataset: EpisodeDataset, camera: str, frame: int) -> str:
    """The address of one frame as a tiny image. Raises DataError if it is damaged."""
    image = next(_scaled(dataset, camera, frame, frame + 1, 1, THUMBNAIL_SIDE))
    return _webp(image, 50)


def _scaled(
    dataset: EpisodeDataset, camera: str, start: int, stop: int, stride: int, side: int
) -> Iterator[np.ndarray]:
    """Every stride-th frame, uint8 (H, W, 3), no side above `side`."""
    wanted = start
    for frame, picture in dataset.images(camera, start, stop):
        # skipped before it is decoded
        if frame != wanted:
            continue
        wanted += stride
        try:
            image = as_frame(picture)
        except DataError as error:
            raise DataError(f"frame {frame}, camera {camera!r}: {error}") from error
        yield _shrunk(image, side)


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    factor = min(1.0, side / max(image.shape[:2]))
    # even sides: H.264 has one colour for every two by two pixels
    height, width = (2 * round(factor * length / 2) for length in image.shape[:2])
    size = max(2, width), max(2, height)
    if size == (image.shape[1], image.shape[0]):
        return image
    shrunk = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    return np.asarray(shrunk)


def _video_file(
    frames: Iterable[np.ndarray], fps: float, stride: int, quality: Quality
) -> CameraVideo:
    size, count = (0, 0), 0

    def counted() -> Iterator[np.ndarray]:
        # one after the other: all frames of a long episode would not fit into memory
        nonlocal size, count
        for image in frames:
            size = (image.shape[1], image.shape[0])
            count += 1
            yield image

    file = io.BytesIO()
    # a keyframe every twelve frames, so that the page's slider finds any frame quickly
    config = VideoConfig(crf=quality.crf, gop=12)
    encode_into(file, counted(), fps, config, name="video")
    return CameraVideo(_address("video/mp4", file.getvalue()), size, count, stride)


def _sheet(frames: list[np.ndarray], stride: int) -> CameraVideo:
    height, width = frames[0].shape[:2]
    # about as many rows as columns: WebP ends at 16383 pixels a side
    columns = math.ceil(math.sqrt(len(frames)))
    rows = -(-len(frames) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, image in enumerate(frames):
        row, column = divmod(i, columns)
        y, x = height * row, width * column
        sheet[y : y + height, x : x + width] = image
    return CameraVideo(_webp(sheet, 60), (width, height), len(frames), stride, columns)


def _webp(image: np.ndarray, quality: int) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="WEBP", quality=quality)
    return _address("image/webp", file.getvalue())


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
