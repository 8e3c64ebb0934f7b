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
from vla.data.storage.checksums import add_checksum, free_box
from vla.data.storage.video import (
    VideoConfig,
    decoding,
    encode_into,
    open_container,
    packets_checksum,
    rate_of,
)

Packet = tuple[bytes, bool]
"""One encoded frame, and whether it can be decoded without others."""


@dataclass(frozen=True)
class Packets:
    """Consecutive frames as the encoder made them, the first one decodable by itself.

    Attributes:
        frames: a packet for each frame, in order.
        extradata: what a decoder must know beforehand; pieces of one file have the same.
        header: an mp4 file of the first packet alone, from which a new file takes codec and size.
    """

    frames: list[Packet]
    extradata: bytes
    header: bytes

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def num_bytes(self) -> int:
        return sum(len(data) for data, _ in self.frames)

    @property
    def checksum(self) -> int:
        """CRC-32 of the decoder's data and all packets: the same in whatever file they lie."""
        return packets_checksum(self.extradata, (data for data, _ in self.frames))


def encode_packets(
    frames: Iterable[np.ndarray], fps: float, config: VideoConfig, *, name: str
) -> Packets:
    """Encodes uint8 (H, W, 3) images. Raises DataError as `encode_video` does, calling them
    `name`."""
    file = io.BytesIO()
    # Through a whole mp4 in memory: its muxer gives packets and decoder's data the form of mp4.
    encode_into(file, frames, fps, config, name=name)
    file.seek(0)
    return _demuxed(file, None, fps, name)


def read_packets(path: Path, frames: int, fps: float) -> Packets:
    """The first `frames` frames of a file that was written by `write_packets`. Raises DataError if
    it has fewer."""
    if not path.is_file():
        raise DataError(f"{path}: no such video file; restore it to continue the dataset")
    with decoding(path), open(path, "rb") as file:
        packets = _demuxed(file, frames, fps, str(path))
    if len(packets) < frames:
        raise DataError(
            f"{path}: has {len(packets)} frames, the episodes table says {frames}; restore the file"
        )
    return packets


def _demuxed(
    file: IO[bytes],
    count: int | None,
    fps: float,
    name: str,
) -> Packets:
    with open_container(file, format="mp4") as container:
        if not container.streams.video:
            raise DataError(f"{name}: is damaged and holds no video; restore the file")
        stream = container.streams.video[0]
        # the demuxer ends with an empty packet, which is no frame
        demuxed = (packet for packet in container.demux(stream) if packet.size)
        frames = [(bytes(packet), packet.is_keyframe) for packet in islice(demuxed, count)]
        header = io.BytesIO()
        _mux(header, stream, frames[:1], fps)
        return Packets(frames, bytes(stream.codec_context.extradata or b""), header.getvalue())


def write_packets(path: Path, parts: Sequence[Packets], fps: float) -> None:
    """One mp4 of all parts in order, with a checksum, whose frame i is shown at exactly i / fps
    seconds.

    Appears whole or not at all.
    """
    import av

    frames = (frame for part in parts for frame in part.frames)
    with atomic_path(path) as temporary:
        with (
            open(temporary, "wb") as file,
            av.open(io.BytesIO(parts[0].header), "r", format="mp4") as template,
        ):
            _mux(file, template.streams.video[0], frames, fps)
            file.seek(0, io.SEEK_END)  # the muxer went back to fill in sizes
            file.write(free_box())
        add_checksum(temporary)


def _mux(
    file: IO[bytes],
    template: Any,
    frames: Iterable[Packet],
    fps: float,
) -> None:
    import av

    with av.open(file, "w", format="mp4") as container:
        # opaque: the decoder's own description; without it the library looks for an encoder of the
        # decoder's name.
        stream = container.add_stream_from_template(template, opaque=True)
        for number, (data, is_keyframe) in enumerate(frames):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, 1 / rate_of(fps)
            # Equal, since no frame refers to a later one (encoded without B-frames): order of
            # decoding is order of showing.
            packet.pts = packet.dts = number
            packet.duration = 1
            packet.is_keyframe = is_keyframe
            container.mux_one(packet)


@dataclass(frozen=True)
class OpenVideo:
    """The newest video file of a camera, which further episodes join.

    Attributes:
        number: of the file.
        parts: what is in it; the first may be all that an earlier process wrote.
    """

    number: int = 0
    parts: tuple[Packets, ...] = ()

    @property
    def frames(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    def takes(self, packets: Packets, limit: int) -> bool:
        """Whether `packets` may follow: the file stays within `limit` bytes, and one decoder reads
        all."""
        if not self.parts:
            return True
        # A resumed writer may have another version of the encoder, whose data for the decoder
        # differ: a player would take the old data for the new packets.
        same_decoder = packets.extradata == self.parts[0].extradata
        return self.num_bytes + packets.num_bytes <= limit and same_decoder

    def with_packets(self, packets: Packets) -> OpenVideo:
        return replace(self, parts=(*self.parts, packets))

    def next(self) -> OpenVideo:
        """The file after this one, empty."""
        return OpenVideo(self.number + 1)
