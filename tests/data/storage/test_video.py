"""A frame of a video is found by its number, at any rate and size; damage is reported, never painted
over."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vla.config import ConfigError, load_config
from vla.data import DataError
from vla.data.storage.video import TIME_TOLERANCE, VideoConfig, VideoReader, encode_video, rate_of
from vla.data.storage.video_packets import encode_packets, read_packets, write_packets

av = pytest.importorskip("av")

H264, AV1 = VideoConfig(), VideoConfig(codec="av1")


def picture(L: int, H: int = 32, W: int = 48) -> np.ndarray:
    """Frames whose brightness tells their number: smooth, so that codecs keep them nearly as they
    are."""
    across = np.linspace(0, 40, W)[None, None, :, None]
    number = 5.0 * np.arange(L)[:, None, None, None]
    return np.broadcast_to(across + number, (L, H, W, 3)).astype(np.uint8)


def numbers(frames: list[np.ndarray]) -> list[int]:
    """Which frames of `picture` they are."""
    return [round((float(frame.mean()) - 20) / 5) for frame in frames]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "video.mp4"


@pytest.mark.parametrize(
    "config", [H264, AV1, VideoConfig(pix_fmt="yuv444p", gop=7, crf=10)], ids=["h264", "av1", "444"]
)
@pytest.mark.parametrize("fps", [10, 12.5, 30000 / 1001, 13.7213])
def test_every_frame_is_found_by_its_number_in_any_order(path, config, fps):
    assert encode_video(path, picture(20), fps, config) == 20
    with VideoReader(path, fps) as reader:
        assert (reader.num_frames, reader.size) == (20, (32, 48))
        assert reader.fps == pytest.approx(fps, rel=1e-9)
        whole = list(reader.frames())
        assert numbers(whole) == list(range(20))
        assert np.abs(np.stack(whole).astype(int) - picture(20)).mean() < 3
        for start in np.random.default_rng(0).permutation(20):
            stop = min(20, int(start) + 3)
            for found, expected in zip(
                reader.frames(int(start), stop), whole[start:stop], strict=True
            ):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("config", [H264, AV1], ids=["h264", "av1"])
@pytest.mark.parametrize("fps", [20, 12.5, 29.97])
def test_frame_i_is_shown_at_i_over_fps_and_every_gop_th_is_a_keyframe(path, config, fps):
    encode_video(path, picture(9), fps, config)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].average_rate == rate_of(fps)
    times = [Fraction(frame.pts) * frame.time_base for frame in frames]
    assert times == [i / rate_of(fps) for i in range(9)]
    assert [frame.key_frame for frame in frames] == [i % config.gop == 0 for i in range(9)]


def test_rates_stay_exact_for_hours_of_video():
    for fps in (10, 12.5, 29.97, 30000 / 1001, 13.7213, 7.3333333):
        frames = int(fps * 4 * 3600)
        assert abs(frames / float(rate_of(fps)) - frames / fps) < TIME_TOLERANCE


def test_interleaved_reading_and_many_threads_give_the_same_frames(path):
    encode_video(path, picture(24), 10, VideoConfig(gop=5))
    with VideoReader(path) as reader:
        expected = list(reader.frames())
        first, second = reader.frames(0, 8), reader.frames(12, 20)
        for i in range(8):
            np.testing.assert_array_equal(next(first), expected[i])
            np.testing.assert_array_equal(next(second), expected[12 + i])
    local = threading.local()

    def read(start: int) -> list[np.ndarray]:
        if not hasattr(local, "reader"):
            local.reader = VideoReader(path)
        return list(local.reader.frames(start, start + 4))

    with ThreadPoolExecutor(4) as pool:
        for start, found in enumerate(pool.map(read, range(20))):
            np.testing.assert_array_equal(found, expected[start : start + 4])


def test_a_video_with_frames_that_refer_to_later_ones_is_read_in_order(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=10, options={"bf": "3", "g": "12", "b-adapt": "0"}
        )
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for image in picture(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with VideoReader(path, 10) as reader:
        assert numbers(list(reader.frames())) == list(range(30))
        for i in (29, 0, 13, 11, 12, 25):
            assert numbers(list(reader.frames(i, i + 1))) == [i]


def test_the_same_frames_give_the_same_file(tmp_path):
    for config in (H264, AV1):
        for name in ("a", "b"):
            encode_video(tmp_path / name, picture(6, 64, 64), 10, config)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_a_codec_cannot_hold_is_refused_with_a_way_out(path):
    with pytest.raises(DataError, match=r"15x17.*even.*yuv444p or codec av1"):
        encode_video(path, picture(2, 15, 17), 10)
    with pytest.raises(DataError, match="no pix_fmt yuv444p"):
        encode_video(path, picture(2), 10, VideoConfig(codec="av1", pix_fmt="yuv444p"))
    with pytest.raises(DataError, match="crf is 60, h264 has 0 to 51"):
        encode_video(path, picture(2), 10, VideoConfig(crf=60))
    with pytest.raises(DataError, match="no frame to encode"):
        encode_video(path, [], 10)
    with pytest.raises(DataError, match=r"frame 1 is uint8 .*16, 48.*one size"):
        encode_video(path, [picture(1)[0], picture(1, 16)[0]], 10)
    with pytest.raises(DataError, match="frame 0 is float64"):
        encode_video(path, picture(1).astype(float), 10)
    assert not list(path.parent.iterdir())
    with pytest.raises(ConfigError, match="codec"):
        load_config(VideoConfig, {}, ["codec=mpeg"])
    for config in (AV1, VideoConfig(pix_fmt="yuv444p")):
        encode_video(path, picture(4, 15, 17), 10, config)
        with VideoReader(path) as reader:
            assert reader.size == (15, 17)
            assert numbers(list(reader.frames())) == [0, 1, 2, 3]


def test_a_failed_encoding_leaves_the_file_before_it(path):
    def frames():
        yield picture(1)[0]
        raise RuntimeError("the camera died")

    encode_video(path, picture(3), 10)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="camera died"):
        encode_video(path, frames(), 10)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_damage_and_contradiction_name_the_file(path):
    with pytest.raises(DataError, match=r"video\.mp4: no such video"):
        VideoReader(path)
    encode_video(path, picture(10), 10)
    with pytest.raises(DataError, match=r"video\.mp4: has 10 frames per second, expected 20"):
        VideoReader(path, 20)
    with VideoReader(path) as reader, pytest.raises(IndexError, match="the video has 10"):
        list(reader.frames(5, 11))
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"video\.mp4: is damaged or no video"):
        VideoReader(path)
    path.write_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n")
    with pytest.raises(DataError, match=r"video\.mp4: is damaged or no video"):
        VideoReader(path)


def test_a_frame_at_another_time_than_its_number_says_is_refused(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, image in zip((0, 100, 200, 300, 430, 500), picture(6), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with VideoReader(path, 10) as reader:
        assert numbers(list(reader.frames(0, 4))) == [0, 1, 2, 3]
        with pytest.raises(DataError, match=r"shown at 0\.43000 s.*constant rate"):
            list(reader.frames(4, 5))


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
@pytest.mark.parametrize("fps", [30, 60, 24])
def test_containers_that_count_milliseconds_are_read(tmp_path, suffix, fps):
    """Every frame; one that lies a quarter of its time away is refused all the same."""
    codec = "libx264" if suffix == "mkv" else "libvpx-vp9"

    def write(times):
        with av.open(str(tmp_path / f"v.{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=fps)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            for time, image in zip(times, picture(len(times)), strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return tmp_path / f"v.{suffix}"

    even = [round(1000 * i / fps) for i in range(12)]
    with VideoReader(write(even), fps) as reader:
        assert numbers(list(reader.frames())) == list(range(12))
        assert numbers(list(reader.frames(7, 9))) == [7, 8]
    late = write([*even[:5], even[5] + round(250 / fps), *even[6:]])
    with VideoReader(late, fps) as reader, pytest.raises(DataError, match="constant rate"):
        list(reader.frames())


@pytest.mark.parametrize("config", [H264, AV1], ids=["h264", "av1"])
def test_every_flipped_bit_and_cut_raises_or_changes_the_checksum(path, config):
    """Damage within a picture may decode without complaint; then the checksum tells."""
    encode_video(path, picture(6), 10, config)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    with VideoReader(path, 10) as reader:
        frames, checksum = np.stack(list(reader.frames())), reader.checksum(0, 6)
    outcomes = {"same": 0, "reported": 0}
    for trial in range(120):
        data = bytearray(good[: rng.integers(len(good))]) if trial % 4 == 0 else bytearray(good)
        if trial % 4:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            with VideoReader(path, 10) as reader:
                found, whole = list(reader.frames(0, 6)), reader.checksum(0, 6) == checksum
        except (DataError, IndexError):
            outcomes["reported"] += 1
            continue
        same = all(
            a.shape == b.shape and np.array_equal(a, b) for a, b in zip(found, frames, strict=True)
        )
        assert same or not whole, f"trial {trial}: another picture under the same checksum"
        outcomes["same" if same and whole else "reported"] += 1
    # most are: how many touch what a decoder reads depends on the encoder
    assert outcomes["reported"] > 50


def test_packets_join_without_being_encoded_again(tmp_path, path):
    for config, fps in ((H264, 12.5), (AV1, 10)):
        parts = [
            encode_packets(picture(30)[a:b], fps, config, name="part")
            for a, b in ((0, 7), (7, 8), (8, 30))
        ]
        write_packets(path, parts, fps)
        with VideoReader(path, fps) as reader:
            assert numbers(list(reader.frames())) == list(range(30))
            assert reader.checksum(7, 8) == parts[1].checksum
            assert reader.checksum(8, 30) == parts[2].checksum != reader.checksum(8, 29)
            alone = tmp_path / "alone.mp4"
            write_packets(alone, parts[2:], fps)
            with VideoReader(alone, fps) as other:
                for found, expected in zip(reader.frames(8, 30), other.frames(), strict=True):
                    np.testing.assert_array_equal(found, expected)
        again = read_packets(path, 8, fps)
        assert again.frames == parts[0].frames + parts[1].frames
        with pytest.raises(DataError, match="has 30 frames, the episodes table says 31"):
            read_packets(path, 31, fps)
