"""Video files of constant rate: frame i is shown at i / fps seconds, and is found again by its
number.

L: frames, H and W: image height and width.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt

from vla.common.atomic import atomic_path
from vla.config import Config
from vla.data.errors import DataError, unreadable

TIME_TOLERANCE = 1e-4
_NEAR_RATE = 2e-3
"""Relative: cameras of 29.97 frames per second are commonly said to have 30."""
_MILLISECOND = 0.001
"""In which Matroska and WebM count: a frame's time may then be off by half of it."""
_ENCODERS = {"h264": "libx264", "av1": "libsvtav1"}
# each on its encoder's own scale: x264's default, and LeRobot's for SVT-AV1
_DEFAULT_CRF = {"h264": 23, "av1": 30}
# A file that claims to be a video may be a playlist, and make the library open other files or
# addresses: only containers are read, and only from the disk.
_OPENING = {"format_whitelist": "mov,mp4,matroska,webm,avi", "protocol_whitelist": "file"}


class VideoConfig(Config):
    """How camera images become video."""

    codec: Literal["h264", "av1"] = "h264"
    """h264 plays everywhere and encodes fast; av1 makes smaller files."""
    crf: int | None = Field(default=None, ge=0, le=63)
    """Quality, lower is better and larger; 23 for h264 (to 51) and 30 for av1 (to 63) by
    default."""
    gop: PositiveInt = 2
    """Every gop-th frame can be decoded without the others: small for shuffled reading, large for
    small files."""
    pix_fmt: Literal["yuv420p", "yuv444p"] = "yuv420p"
    """yuv420p stores colour at half the resolution and every player shows it; yuv444p (h264 only)
    keeps all of it."""

    @property
    def quality(self) -> int:
        """`crf`, or the default of the codec."""
        return _DEFAULT_CRF[self.codec] if self.crf is None else self.crf

    def check_size(self, name: str, height: int, width: int) -> None:
        """Raises DataError if images of this size cannot be encoded; `name` says of what."""
        if self.codec == "av1" and self.pix_fmt == "yuv444p":
            raise DataError(
                f"{name}: the av1 encoder has no pix_fmt yuv444p; choose yuv420p, or codec h264"
            )
        if self.codec == "h264" and self.quality > 51:
            raise DataError(f"{name}: crf is {self.quality}, h264 has 0 to 51; lower it")
        if self.codec == "h264" and self.pix_fmt == "yuv420p" and (height % 2 or width % 2):
            raise DataError(
                f"{name}: is {height}x{width}, h264 with pix_fmt yuv420p needs an even height and "
                "width; choose pix_fmt yuv444p or codec av1, or record at an even size"
            )


def rate_of(fps: float) -> Fraction:
    """`fps` as a fraction whose multiples stay within `TIME_TOLERANCE` of those of `fps` for many
    hours of video."""
    return Fraction(fps).limit_denominator(100_000)


def packets_checksum(extradata: bytes, packets: Iterable[bytes]) -> int:
    """CRC-32 of a decoder's data and of packets."""
    # the decoder's data too: with that of another encoder the same packets show other images
    value = zlib.crc32(extradata)
    for data in packets:
        value = zlib.crc32(data, value)
    return value


# --- writing --------------------------------------------------------------------------------------


def encode_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    config: VideoConfig | None = None,
) -> int:
    """Writes an mp4 whose frame i is shown at exactly i / fps seconds, and returns the number of
    its frames.

    The file appears whole or not at all. The same frames give the same file on every machine with
    the same libraries.

    Args:
        frames: uint8 (H, W, 3) RGB each, all of one size.
        fps: frames per second, also fractional.

    Raises:
        DataError: there is no frame, a frame is of another kind or size, or the codec has no such
            size.
    """
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
        return encode_into(file, frames, fps, config or VideoConfig(), name=str(path))


def encode_into(
    file: IO[bytes],
    frames: Iterable[np.ndarray],
    fps: float,
    config: VideoConfig,
    *,
    name: str,
) -> int:
    """`encode_video` into an open file that can seek; `name` is what errors call it."""
    import av

    rate = rate_of(fps)
    size = None
    count = 0
    with av.open(file, "w", format="mp4") as container:
        stream: Any = None
        for image in frames:
            is_rgb = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            if not is_rgb or size not in (None, image.shape[:2]):
                raise DataError(
                    f"{name}: frame {count} is {image.dtype} {image.shape}, expected uint8 "
                    f"{(*(size or 'HW'), 3)}; give RGB images of one size"
                )
            if stream is None:  # the first frame says the size
                size = image.shape[:2]
                config.check_size(name, *size)
                stream = _add_stream(container, rate, size, config)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            # in units of one frame: no rounding, so frame i is at exactly i / fps
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(stream.encode(frame))
            count += 1
        if stream is None:
            raise DataError(f"{name}: there is no frame to encode; give at least one")
        container.mux(stream.encode())  # what the encoder still holds back
    return count


def _add_stream(
    container: Any,
    rate: Fraction,
    size: tuple[int, int],
    config: VideoConfig,
) -> Any:
    options = {"crf": str(config.quality), "g": str(config.gop)}
    if config.codec == "h264":
        # bf=0: without frames that refer to later ones the order of packets is the order of frames,
        # and pts start at 0. sc_threshold=0: no keyframes at cuts, so their places are known.
        options |= {"preset": "veryfast", "bf": "0", "sc_threshold": "0", **reproducible_x264()}
    else:
        # The encoder prints its settings for every file; this variable alone stops it.
        os.environ.setdefault("SVT_LOG", "1")
        options |= {"preset": "12", "svtav1-params": "lp=1"}
    stream = container.add_stream(_ENCODERS[config.codec], rate=rate, options=options)
    stream.height, stream.width = size
    stream.pix_fmt = config.pix_fmt
    stream.codec_context.time_base = 1 / rate
    # What x264 makes depends on the number of threads; one thread makes the same file everywhere.
    stream.codec_context.thread_count = 1
    return stream


def reproducible_x264() -> dict[str, str]:
    """Options with which x264 makes the same file of the same frames each time."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return {}
    # its code for AVX-512 makes another file now and then, also on a quiet machine
    return {"x264-params": "asm=avx2"}


# --- reading --------------------------------------------------------------------------------------


def open_container(file: str | IO[bytes], **options: Any) -> Any:
    """`av.open` for reading; texts in damaged headers that are no UTF-8 do not matter."""
    import av

    # PyAV 19 decodes any text, and no longer knows the option
    if int(av.__version__.partition(".")[0]) < 19:
        options["metadata_errors"] = "ignore"
    return av.open(file, "r", **options)


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turns what the video library raises about the file at `path` into a DataError that names
    it."""
    import av

    try:
        yield
    # UnicodeDecodeError: names and tags in a damaged header are decoded by PyAV
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise unreadable(path, f"is damaged or no video ({reason}); restore the file") from error


class VideoReader:
    """Frames of a video by their numbers. Use one reader per thread; many may read one file.

    Frame i is the one shown i / rate seconds after the first, within `TIME_TOLERANCE` or what the
    container rounds times to: a file whose frames lie elsewhere is refused, not read as something
    near. The rate is `fps`, or the file's own where that is constant and hardly another, such as
    29.97 for 30.

    Args:
        path: of the video file.
        fps: the rate that the file must have; its own by default.
        threads: of the decoder.

    Attributes:
        num_frames: frames in the file.
        fps: frames per second, as they are counted.
        start: seconds at which the first frame is shown.
        size: (height, width) in pixels.

    Raises:
        DataError: there is no such file, it is damaged, holds no video, or is of another rate than
            `fps`.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | None = None,
        *,
        threads: int = 1,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such video file; copy it from the dataset's source")
        with decoding(self.path):
            # Without the prefix the library would take a name with a colon for an address.
            self._container = open_container(f"file:{self.path}", options=_OPENING)
        try:
            self._open_stream(fps, threads)
        except BaseException:
            self.close()
            raise
        self._next = -1
        self._decoded: Iterator[Any] = iter(())

    def _open_stream(self, fps: float | None, threads: int) -> None:
        if not self._container.streams.video:
            raise DataError(f"{self.path}: holds no video; restore the file")
        stream = self._stream = self._container.streams.video[0]
        # in this order: of an unknown codec PyAV has no context, and then no height either
        is_known = stream.average_rate and stream.codec_context
        if not is_known or not (stream.height and stream.width):
            raise DataError(f"{self.path}: does not say its rate, codec and size; restore the file")
        # Matroska and WebM do not say how many, and give 0
        self.num_frames = int(stream.frames) or self._count()
        own = self._measured_rate()
        if fps is not None and abs(float(own) - fps) > _NEAR_RATE * fps:
            raise DataError(
                f"{self.path}: has {float(own):.6g} frames per second, expected {fps:g}; correct "
                "the rate in the dataset's metadata, or encode the video again: `ffmpeg -i "
                f"{self.path.name} -vf fps={fps:g} NEW.mp4`"
            )
        self._rate = own if fps is None else rate_of(fps)
        # cameras may be late: their first frame is the first all the same
        self._start = max(0, stream.start_time or 0) * stream.time_base
        self.start = float(self._start)
        tick = float(stream.time_base)
        self._tolerance = TIME_TOLERANCE
        # Half a tick is rounding. A tick longer than milliseconds gets no more: half of it could
        # reach the next frame.
        if tick <= _MILLISECOND:
            self._tolerance = max(TIME_TOLERANCE, 0.51 * tick)
        # at a rate that is another, if only a little, frames drift away from multiples of `fps`
        if self.num_frames * abs(1 / own - 1 / self._rate) > self._tolerance:
            self._rate = own
        self.fps = float(self._rate)
        self.size = (int(stream.height), int(stream.width))
        # Damage raises instead of being painted over with what is near.
        stream.codec_context.options = {"err_detect": "explode"}
        stream.codec_context.thread_count = threads
        if threads > 1:
            stream.thread_type = "AUTO"

    def _measured_rate(self) -> Fraction:
        """Of the file's index, where that has all frames: the rate in the header also counts how
        long the last frame is shown."""
        entries = self._stream.index_entries
        last = len(entries) - 1
        if last < 1 or len(entries) != self.num_frames:
            return Fraction(self._stream.average_rate)
        ticks = entries[last].timestamp - entries[0].timestamp
        if ticks <= 0:
            return Fraction(self._stream.average_rate)
        return last / (ticks * Fraction(self._stream.time_base))

    def _count(self) -> int:
        """For containers whose header does not say."""
        with decoding(self.path):
            return sum(1 for packet in self._container.demux(self._stream) if packet.size)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self._container.close()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Frames [start, stop) as uint8 (H, W, 3) RGB, decoded as they are asked for.

        Raises:
            IndexError: the range is not within the file.
            DataError: the file is damaged, or a frame is missing or shown at another time than its
                number says.
        """
        stop = self.num_frames if stop is None else stop
        if not 0 <= start <= stop <= self.num_frames:
            raise IndexError(
                f"{self.path}: frames {start} to {stop}: the video has {self.num_frames}"
            )
        for index in range(start, stop):
            frame = self._frame(index)
            with decoding(self.path):
                yield frame.to_ndarray(format="rgb24")

    def checksum(self, start: int, stop: int) -> int:
        """CRC-32 of the decoder's data and of the packets of frames [start, stop), read without
        decoding them.

        Damage within an image often decodes to another image without complaint; this is how it is
        found. For files whose packets lie in the order of frames, as `encode_video` writes them.

        Raises:
            DataError: the file is damaged, or lacks one of the frames.
        """
        self._seek(start)
        self._next = -1  # the decoder stands anywhere afterwards
        packets: list[bytes] = []
        with decoding(self.path):
            for packet in self._container.demux(self._stream):
                if len(packets) == stop - start:
                    break
                if packet.size and self._number(packet) >= start:
                    packets.append(bytes(packet))
        if len(packets) < stop - start:
            raise DataError(
                f"{self.path}: lacks frames {start + len(packets)} to {stop - 1}; restore the file"
            )
        return packets_checksum(bytes(self._stream.codec_context.extradata or b""), packets)

    def _frame(self, index: int) -> Any:
        # Decoding on is many times cheaper than seeking, which begins at a keyframe.
        sought = index != self._next
        if sought:
            self._seek(index)
        found = self._advance(index)
        if found > index and sought:
            # The nearest keyframe by decoding time may be shown later than the frame; from the
            # start nothing is missed.
            self._seek(0)
            found = self._advance(index)
        if found != index:
            self._next = -1
            raise DataError(
                f"{self.path}: frame {index} (at {index / self.fps:.4f} s) is missing; restore "
                "the file, or drop its episodes"
            )
        self._next = index + 1
        return self._last

    def _seek(self, index: int) -> None:
        with decoding(self.path):
            place = round((index / self._rate + self._start) / self._stream.time_base)
            self._container.seek(place, stream=self._stream)
            self._decoded = self._container.decode(self._stream)

    def _advance(self, index: int) -> int:
        """Decodes up to frame `index`; returns the number of the frame reached, or -1 if the file
        ends before it."""
        with decoding(self.path):
            for frame in self._decoded:
                number = self._number(frame)
                if frame.is_corrupt:
                    raise DataError(
                        f"{self.path}: frame {number} is damaged; restore the file, or drop its "
                        "episodes"
                    )
                if number >= index:
                    self._last = frame
                    return number
        return -1

    def _number(self, frame: Any) -> int:
        if frame.pts is None:
            raise DataError(
                f"{self.path}: a frame says no time; encode the video again at a constant rate"
            )
        time = frame.pts * frame.time_base - self._start  # fractions: exact
        number = round(time * self._rate)
        if abs(time - number / self._rate) > self._tolerance:
            raise DataError(
                f"{self.path}: a frame is shown at {float(time):.5f} s, which is no multiple of 1 "
                f"/ {self.fps:g} s: its frames come at a variable rate; encode it again at a "
                f"constant rate: `ffmpeg -i {self.path.name} -vf fps={self.fps:g} NEW.mp4`"
            )
        return number
