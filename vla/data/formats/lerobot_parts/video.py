"""Frames of episodes out of video files that may hold many episodes each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.data.errors import DataError
from vla.data.storage.video import TIME_TOLERANCE, VideoReader

_SAME_RATE = 1e-6
"""Relative: a rate that was rounded, such as 29.97003 for 30000 / 1001."""


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
    feature: str,
    warn: Callable[[str], None],
    verified: set[Segment],
) -> Iterator[tuple[int, np.ndarray]]:
    """(frame, uint8 (H, W, 3)) of the steps [start, stop) of segments; neighbours in one file are
    decoded in one pass.

    Args:
        parts: (frame of the first step in the dataset, segment, start, stop).
        fps: the rate that the videos must have.
        size: the (height, width) that they must have.
        feature: what the dataset calls the camera.
        warn: called with a sentence if a file holds more than its episode, or has odd times.
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
                _check_times(reader, segment, fps, feature, warn)
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


def _check_times(
    reader: VideoReader,
    segment: Segment,
    fps: float,
    feature: str,
    warn: Callable[[str], None],
) -> None:
    """Warns of a file whose frames are counted otherwise than their times say. Raises DataError if
    count and times contradict."""
    # no file's name in the sentences: all of a camera are of one kind, and warned of once
    if reader.start > TIME_TOLERANCE:
        warn(f"videos of {feature!r} do not start at 0 s: frames are counted from the first")
    drift = segment.length * abs(reader.fps / fps - 1)  # in frames, at the episode's end
    if abs(reader.fps / fps - 1) < _SAME_RATE:
        return
    rates = f"{reader.fps:.6g} frames per second, info.json says {fps:g}"
    # with as many frames as steps there is no doubt which belongs to which
    if segment.alone and drift >= 0.5 and reader.num_frames != segment.length:
        raise DataError(
            f"{segment.path}: has {rates}, and {reader.num_frames} frames for {segment.length} "
            f"steps: which belong together is unknown; encode it again: `ffmpeg -i "
            f"{segment.path.name} -vf fps={fps:g} NEW.mp4`"
        )
    warn(
        f"videos of {feature!r} have {rates}: frames are read by their number (frame i is step "
        "i); correct fps there if the robot ran at the cameras' rate"
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
