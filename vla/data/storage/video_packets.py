"""Encoded pieces of video that are put one after another into a file, without being decoded or
encoded again."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from vla.common.atomic import atomic_path
from vla.data.errors import DataError
from vla.data.storage.checksums import free_box, seal
from vla.data.storage.video import VideoConfig, decoding, encode_into, packets_checksum, rate_of


@dataclass(frozen=True)
class Clip:
    """Consecutive frames as the encoder made them, the first one decodable by itself.

    Attributes:
        packets: (bytes, whether it can be decoded without others) of each frame, in order.
        extradata: what a decoder must know beforehand; pieces of one file have the same.
        header: an mp4 file of the first packet alone, from which a new file takes codec and size.
    """

    packets: list[tuple[bytes, bool]]
    extradata: bytes
    header: bytes

    def __len__(self) -> int:
        return len(self.packets)

    @property
    def checksum(self) -> int:
        """CRC-32 of the decoder's data and all packets: the same in whatever file the clip lies."""
        return packets_checksum(self.extradata, (data for data, _ in self.packets))


def encode_clip(
    frames: Iterable[np.ndarray], fps: float, config: VideoConfig, *, name: str
) -> Clip:
    """Encodes uint8 (H, W, 3) images. Raises DataError as `encode_video` does, calling the clip
    `name`."""
    file = io.BytesIO()
    encode_into(file, frames, fps, config, name=name)
    file.seek(0)
    return _taken(file, None, fps, name)


def read_clip(path: Path, frames: int, fps: float) -> Clip:
    """The first `frames` frames of a file that was written by `write_clips`. Raises DataError if it
    has fewer."""
    if not path.is_file():
        raise DataError(f"{path}: no such video file; restore it to continue the dataset")
    with decoding(path), open(path, "rb") as file:
        clip = _taken(file, frames, fps, str(path))
    if len(clip) < frames:
        raise DataError(
            f"{path}: has {len(clip)} frames, the episodes table says {frames}; restore the file"
        )
    return clip


def _taken(file: IO[bytes], count: int | None, fps: float, name: str) -> Clip:
    import av

    with av.open(file, "r", format="mp4", metadata_errors="ignore") as container:
        if not container.streams.video:
            raise DataError(f"{name}: is damaged and holds no video; restore the file")
        stream = container.streams.video[0]
        demuxed = (packet for packet in container.demux(stream) if packet.size)
        packets = [(bytes(packet), packet.is_keyframe) for packet in islice(demuxed, count)]
        header = io.BytesIO()
        _mux(header, stream, packets[:1], fps)
        return Clip(packets, bytes(stream.codec_context.extradata or b""), header.getvalue())


def write_clips(path: Path, clips: Sequence[Clip], fps: float) -> None:
    """One mp4 of all clips in order, sealed, whose frame i is shown at exactly i / fps seconds.
    Appears whole or not at all."""
    import av

    with atomic_path(path) as temporary:
        with (
            open(temporary, "wb") as file,
            av.open(io.BytesIO(clips[0].header), "r", format="mp4") as template,
        ):
            _mux(
                file,
                template.streams.video[0],
                (packet for clip in clips for packet in clip.packets),
                fps,
            )
            file.seek(0, io.SEEK_END)
            file.write(free_box())
        seal(temporary)


def _mux(file: IO[bytes], template: Any, packets: Iterable[tuple[bytes, bool]], fps: float) -> None:
    import av

    with av.open(file, "w", format="mp4") as container:
        # opaque: the decoder's own description; without it the library looks for an encoder of the
        # decoder's name.
        stream = container.add_stream_from_template(template, opaque=True)
        for number, (data, is_keyframe) in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, 1 / rate_of(fps)
            packet.pts = packet.dts = number
            packet.duration = 1
            packet.is_keyframe = is_keyframe
            container.mux_one(packet)


@dataclass(frozen=True)
class OpenVideo:
    """The newest video file of a camera, which further clips join.

    Attributes:
        number: of the file.
        clips: what is in it.
    """

    number: int = 0
    clips: tuple[Clip, ...] = ()

    @property
    def frames(self) -> int:
        return sum(len(clip) for clip in self.clips)

    @property
    def bytes(self) -> int:
        return sum(len(data) for clip in self.clips for data, _ in clip.packets)

    def takes(self, clip: Clip, limit: int) -> bool:
        """Whether `clip` may follow: the file stays within `limit` bytes, and one decoder reads
        both.

        A resumed writer may have another version of the encoder, whose data for the decoder
        differ."""
        if not self.clips:
            return True
        size = self.bytes + sum(len(data) for data, _ in clip.packets)
        return size <= limit and clip.extradata == self.clips[0].extradata

    def with_clip(self, clip: Clip) -> OpenVideo:
        return replace(self, clips=(*self.clips, clip))

    def next(self) -> OpenVideo:
        """The file after this one, empty."""
        return OpenVideo(self.number + 1)
