"""Frames of episodes out of video files that may hold many episodes each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.data.errors import DataError
from vla.data.storage.video import VideoReader


@dataclass(frozen=True)
class Segment:
    """Where an episode's frames lie in a video.

    Attributes:
        path: the video file.
        episode: the episode's index in the dataset, for errors.
        first: number of its first frame in the file.
        length: how many frames it has.
        alone: whether the file should hold this episode only.
        checksum: of its packets (`VideoReader.checksum`); None if the dataset does not say.
    """

    path: Path
    episode: int
    first: int
    length: int
    alone: bool
    checksum: int | None = None


def read_segments(
    parts: Sequence[tuple[int, Segment, int, int]],
    fps: float,
    size: tuple[int, int],
    *,
    warn: Callable[[str], None],
    verified: set[Segment],
) -> Iterator[tuple[int, np.ndarray]]:
    """(frame, uint8 (H, W, 3)) of the steps [start, stop) of segments; neighbours in one file are
    decoded in one pass.

    Args:
        parts: (frame of the first step in the dataset, segment, start, stop).
        fps: the rate that the videos must have.
        size: the (height, width) that they must have.
        warn: called with a sentence if a file holds more than its episode.
        verified: segments whose checksum was compared before; those of this call join them.

    Raises:
        DataError: a file is missing, damaged, shorter than its episodes, or of another rate or
            size.
    """
    path: Path | None = None
    reader: VideoReader | None = None
    try:
        for frame, segment, start, stop in parts:
            if reader is None or path != segment.path:
                if reader is not None:
                    reader.close()
                path, reader = segment.path, _opened(segment, fps, size)
            # Once per segment: the checksum reads all of its packets.
            if segment not in verified:
                _check_length(reader, segment, warn)
                _check_packets(reader, segment)
                verified.add(segment)
            images = reader.frames(segment.first + start, segment.first + stop)
            yield from enumerate(images, start=frame)
    finally:
        if reader is not None:
            reader.close()


def _opened(segment: Segment, fps: float, size: tuple[int, int]) -> VideoReader:
    reader = VideoReader(segment.path, fps)
    if reader.size != size:
        reader.close()
        raise DataError(
            f"{segment.path}: is {reader.size[0]}x{reader.size[1]}, info.json says "
            f"{size[0]}x{size[1]} (episode {segment.episode}); correct the feature's shape there, "
            "or restore the video"
        )
    return reader


def _check_length(
    reader: VideoReader,
    segment: Segment,
    warn: Callable[[str], None],
) -> None:
    needed = segment.first + segment.length
    if reader.num_frames < needed:
        raise DataError(
            f"{segment.path}: has {reader.num_frames} frames, episode {segment.episode} ends at "
            f"frame {needed}; the video is cut off or another's: restore it, or drop the episode"
        )
    # Of version 2, whose files hold one episode each: a camera may have run on after it.
    if segment.alone and reader.num_frames > needed:
        warn(
            f"{segment.path}: has {reader.num_frames} frames, episode {segment.episode} has "
            f"{needed} steps; the first frames are taken"
        )


def _check_packets(reader: VideoReader, segment: Segment) -> None:
    """Raises DataError if the packets changed: damage within an image often decodes to another
    image without complaint."""
    if segment.checksum is None:
        return
    if reader.checksum(segment.first, segment.first + segment.length) != segment.checksum:
        raise DataError(
            f"{segment.path}: the frames of episode {segment.episode} are not those that were "
            "written (their checksum differs); restore the file from a copy, or drop the episode"
        )
