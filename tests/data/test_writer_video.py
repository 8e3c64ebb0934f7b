"""A dataset whose cameras are video: whole after every episode, whatever kills the writer, and
continued without a seam."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from killed_writer import killed_writer

from vla.common import atomic
from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset, Windows, schema
from vla.data.storage import video_packets
from vla.data.storage.video import VideoConfig, VideoReader

pytest.importorskip("av")

H264, AV1 = VideoConfig(), VideoConfig(codec="av1")
# Mean absolute difference of what is stored to what was recorded, of the smooth pictures below.
CODEC_ERROR = 4.0  # of 255: 3.0 with SVT-AV1 in PyAV 19, less with that in 18
FILES_PER_EPISODE = 7


@pytest.fixture
def filmed(episode) -> Callable[..., Episode]:
    """filmed(number, steps=None): the episode with smooth pictures whose brightness tells episode
    and step."""

    def make(number: int, steps: int | None = None) -> Episode:
        made = episode(number, steps)
        rng = np.random.default_rng([9, number])
        images = {}
        for camera, frames in made.images.items():
            L, H, W, _ = np.shape(frames)
            brightness = (
                20
                + 40 * (number % 5)
                + 4 * np.arange(L)[:, None, None, None]
                + rng.integers(0, 5, 3)
            )
            images[camera] = np.broadcast_to(brightness, (L, H, W, 3)).astype(np.uint8)
        return replace(made, images=images)

    return make


@pytest.fixture
def assert_filmed() -> Callable[[EpisodeDataset, int, Episode], None]:
    """Asserts that the dataset's episode equals the given one: numbers bit by bit, pictures within
    the codec's error."""

    def check(dataset: EpisodeDataset, index: int, expected: Episode) -> None:
        found = dataset.episode(index)
        for name in ("state", "actions", "rewards", "success"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        for camera in expected.images:
            difference = found.frames(camera).astype(int) - expected.frames(camera)
            assert np.abs(difference).mean() < CODEC_ERROR, f"episode {index}, camera {camera}"
        assert (found.terminated, found.instruction, found.info) == (
            expected.terminated,
            expected.instruction,
            expected.info,
        )

    return check


def rows_of(root: Path) -> list[dict]:
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def assert_videos_fit_the_table(root: Path) -> None:
    """Each episode's span is as long as the episode, spans follow one another, checksums are those
    of the packets."""
    info = json.loads((root / schema.INFO).read_text())
    rows = rows_of(root)[: info["total_episodes"]]
    for key in (name for name, feature in info["features"].items() if feature["dtype"] == "video"):
        ends: dict[Path, int] = {}
        for row in rows:
            chunk, file = row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]
            path = root / info["video_path"].format(
                video_key=key, chunk_index=chunk, file_index=file
            )
            first = round(row[f"videos/{key}/from_timestamp"] * info["fps"])
            stop = round(row[f"videos/{key}/to_timestamp"] * info["fps"])
            assert (first, stop - first) == (ends.get(path, 0), row["length"])
            ends[path] = stop
            with VideoReader(path, info["fps"]) as reader:
                assert reader.checksum(first, stop) == row[f"videos/{key}/crc32"]


def stats_of(root: Path) -> dict:
    return json.loads((root / schema.STATS).read_text())


@pytest.mark.parametrize(
    "video", [H264, AV1, VideoConfig(pix_fmt="yuv444p", gop=3)], ids=["h264", "av1", "444"]
)
def test_episodes_come_back_after_each_is_added(tmp_path, spec, filmed, assert_filmed, video):
    root = tmp_path / "dataset"
    with DatasetWriter(root, spec, video=video) as writer:
        for number in range(4):
            writer.add_episode(filmed(number))
            dataset = EpisodeDataset(root)
            assert dataset.num_episodes == number + 1
            assert_filmed(dataset, number, filmed(number))
    for number in range(4):
        assert_filmed(EpisodeDataset(root), number, filmed(number))
    assert_videos_fit_the_table(root)
    windows = Windows(EpisodeDataset(root), history=2, chunk=2)
    assert set(windows.batch(np.arange(2)).images) == set(spec.cameras)
    info = json.loads((root / schema.INFO).read_text())
    feature = info["features"]["observation.images.front"]
    assert (feature["dtype"], feature["shape"]) == ("video", [6, 8, 3])
    expected = {
        "height": 6,
        "width": 8,
        "codec": video.codec,
        "pix_fmt": video.pix_fmt,
        "fps": 10,
        "channels": 3,
    }
    assert {name: feature["info"][f"video.{name}"] for name in expected} == expected
    assert info["video_path"] == schema.VIDEO_PATH
    columns = pq.read_schema(root / schema.DATA_PATH.format(chunk_index=0, file_index=0)).names
    assert not [name for name in columns if name.startswith("observation.images")]


def test_files_roll_over_and_resuming_goes_on_in_the_newest(
    tmp_path, spec, filmed, assert_filmed, monkeypatch
):
    monkeypatch.setattr("vla.data.writer.OPEN_VIDEO_BYTES", 2500)
    monkeypatch.setattr("vla.data.writer.EPISODES_PER_TABLE", 3)
    monkeypatch.setattr(schema, "FILES_PER_CHUNK", 2)
    at_once, by_one = tmp_path / "at once", tmp_path / "by one"
    with DatasetWriter(at_once, spec, video=H264) as writer:
        writer.add_episodes([filmed(number, 5) for number in range(8)])
    for number in range(8):
        with DatasetWriter(by_one, spec, video=H264, resume=True) as writer:
            assert writer.add_episode(filmed(number, 5)) == number
    for root in (at_once, by_one):
        assert len(list(root.glob("videos/observation.images.front/*/*.mp4"))) > 2
        assert len(list(root.glob("videos/observation.images.front/*"))) > 1
        assert len(list(root.glob("data/*/*.parquet"))) > 2
        assert_videos_fit_the_table(root)
        for number in range(8):
            assert_filmed(EpisodeDataset(root), number, filmed(number, 5))
    for path in at_once.rglob("*.mp4"):
        assert path.read_bytes() == (by_one / path.relative_to(at_once)).read_bytes()
    assert rows_of(at_once) == rows_of(by_one)


def test_an_encoder_of_another_version_begins_a_new_file(
    tmp_path, spec, filmed, assert_filmed, monkeypatch
):
    with DatasetWriter(tmp_path / "d", spec, video=H264) as writer:
        writer.add_episode(filmed(0, 4))
    # Another profile stands for another version: what its decoder must know differs.
    add = video_packets.encode_into
    odd = VideoConfig(pix_fmt="yuv444p")
    monkeypatch.setattr(
        video_packets,
        "encode_into",
        lambda file, frames, fps, config, name: add(file, frames, fps, odd, name=name),
    )
    with DatasetWriter(tmp_path / "d", spec, video=H264, resume=True) as writer:
        writer.add_episode(filmed(1, 4))
    assert len(list((tmp_path / "d").glob("videos/observation.images.front/*/*.mp4"))) == 2
    for number in range(2):
        assert_filmed(EpisodeDataset(tmp_path / "d"), number, filmed(number, 4))


def test_resuming_with_another_way_to_store_is_refused(tmp_path, spec, filmed):
    films, pictures = tmp_path / "films", tmp_path / "pictures"
    with DatasetWriter(films, spec, video=H264) as writer:
        writer.add_episode(filmed(0))
    with DatasetWriter(pictures, spec) as writer:
        writer.add_episode(filmed(0))
    for video in (AV1, VideoConfig(crf=30), VideoConfig(gop=10), None):
        with pytest.raises(
            DataError,
            match=r"cannot resume: observation.images.front is stored as video 6x8 \(.*h264",
        ):
            DatasetWriter(films, spec, video=video, resume=True)
    with pytest.raises(DataError, match=r"is stored as image 6x8, .*asks for video"):
        DatasetWriter(pictures, spec, video=H264, resume=True)
    for video in (H264, VideoConfig(crf=23)):
        DatasetWriter(films, spec, video=video, resume=True).close()


def test_what_video_cannot_hold_is_refused_before_anything_is_written(tmp_path, spec):
    odd = replace(spec, cameras={"front": (5, 8)})
    with pytest.raises(DataError, match=r"camera 'front': is 5x8.*even"):
        DatasetWriter(tmp_path / "d", odd, video=H264)
    for name in ("../outside", "a/b", "", "a{b}"):
        with pytest.raises(DataError, match="names the folder of its videos"):
            DatasetWriter(tmp_path / "d", replace(spec, cameras={name: (6, 8)}), video=H264)
    assert not list(tmp_path.iterdir())


def test_damage_is_reported_when_the_dataset_is_continued(tmp_path, spec, filmed):
    root = tmp_path / "d"
    with DatasetWriter(root, spec, video=H264) as writer:
        writer.add_episode(filmed(0))
    (film,) = root.glob("videos/observation.images.wrist/*/*.mp4")
    good = film.read_bytes()
    film.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"wrist.*file-000\.mp4: is damaged"):
        DatasetWriter(root, spec, video=H264, resume=True)
    film.unlink()
    with pytest.raises(DataError, match=r"wrist.*file-000\.mp4: no such video"):
        DatasetWriter(root, spec, video=H264, resume=True)
    film.write_bytes(good)
    (root / schema.INFO).write_text("{")
    with pytest.raises(DataError, match="damaged and cannot be continued"):
        DatasetWriter(root, spec, video=H264, resume=True)


@pytest.mark.parametrize("survived", range(FILES_PER_EPISODE))
def test_death_at_every_file_of_an_episode(
    tmp_path, spec, filmed, assert_filmed, monkeypatch, survived
):
    """Episode 1 brings a new task, so that 2 videos and 5 tables are written; the rename after
    `survived` of them fails."""
    replace_, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) > survived:
            raise OSError(28, "No space left on device")
        replace_(source, target)

    root = tmp_path / "dataset"
    with DatasetWriter(root, spec, video=H264) as writer:
        writer.add_episode(filmed(0))
        committed = stats_of(root)
        monkeypatch.setattr(atomic.os, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            writer.add_episode(filmed(1, 6))
        monkeypatch.undo()
        dataset = EpisodeDataset(root)
        assert (dataset.num_episodes, dataset.instructions) == (1, [filmed(0).instruction])
        assert_filmed(dataset, 0, filmed(0))
        assert len(Windows(dataset, history=2, chunk=2)) == dataset.num_frames
    assert stats_of(root) == committed
    with DatasetWriter(root, spec, video=H264, resume=True) as resumed:
        # Another episode than the one that was lost: nothing of that one may shine through.
        assert resumed.add_episode(filmed(2)) == 1
    dataset = EpisodeDataset(root)
    assert dataset.num_episodes == 2
    for index, number in enumerate((0, 2)):
        assert_filmed(dataset, index, filmed(number))
    assert_videos_fit_the_table(root)
    with VideoReader(next(root.glob("videos/observation.images.front/*/*.mp4"))) as reader:
        assert reader.num_frames == len(filmed(0)) + len(filmed(2))


@pytest.mark.parametrize("video", [None, H264], ids=["images", "video"])
def test_statistics_are_of_committed_episodes_after_a_kill_before_the_commit(
    tmp_path, spec, filmed, monkeypatch, video
):
    root = tmp_path / "dataset"
    writer = DatasetWriter(root, spec, video=video)
    writer.add_episode(filmed(0))
    committed = stats_of(root)

    def killed(*_args) -> None:
        raise KeyboardInterrupt

    # The process is gone between stats.json and info.json: nobody calls close.
    monkeypatch.setattr(writer, "_write_info", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.add_episode(filmed(1))
    assert stats_of(root) != committed
    writer._lock.close()  # as the system does when a process ends
    with DatasetWriter(root, spec, video=video, resume=True):
        assert stats_of(root) == committed


@pytest.mark.parametrize("video", [None, H264], ids=["images", "video"])
def test_a_writer_that_died_in_its_first_episode_leaves_nothing(
    tmp_path, spec, filmed, monkeypatch, video
):
    def killed(*_args) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "dataset"
    writer = DatasetWriter(root, spec, video=video)
    before = {path for path in root.rglob("*") if path.is_file()}
    monkeypatch.setattr(writer, "_write_info", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.add_episode(filmed(0))
    assert {path for path in root.rglob("*") if path.is_file()} > before
    writer._lock.close()  # as the system does when a process ends
    with DatasetWriter(root, spec, video=video, resume=True) as resumed:
        assert {path for path in root.rglob("*") if path.is_file()} == before
        assert resumed.add_episode(filmed(1)) == 0
    assert EpisodeDataset(root).instructions == [filmed(1).instruction]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_at_random_moments_loses_at_most_the_episode_in_progress(tmp_path, episode, spec):
    root, counts = tmp_path / "dataset", []
    imports = "from vla.data.storage.video import VideoConfig\nimport av"
    for dataset in killed_writer(
        root, tmp_path / "log", times=4, imports=imports, options=", video=VideoConfig()"
    ):
        for number in range(dataset.num_episodes):
            found, expected = dataset.episode(number), episode(number)
            np.testing.assert_array_equal(found.actions, expected.actions)
            assert {c: f.shape for c, f in found.images.items()} == {
                c: f.shape for c, f in expected.images.items()
            }
        assert_videos_fit_the_table(root)
        counts.append(dataset.num_episodes)
    assert counts == sorted(set(counts))
    with DatasetWriter(root, spec, resume=True, video=H264) as writer:
        assert writer.add_episode(episode(counts[-1])) == counts[-1]
    assert not list(root.rglob("*.tmp"))
    assert_videos_fit_the_table(root)
