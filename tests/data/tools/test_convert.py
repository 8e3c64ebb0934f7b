"""Any dataset into the native format: nothing is lost, and a kill costs no more than the episodes
in progress."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from vla.cli import app
from vla.common.folder_lock import FolderInUseError, alone
from vla.data import DataError, DatasetWriter, EpisodeDataset, KeyMap, encode_png
from vla.data.format import Columns, DatasetReader
from vla.data.select import chosen_episodes
from vla.data.storage.image_codec import as_png
from vla.data.storage.video import VideoConfig
from vla.data.tools import output
from vla.data.tools.conversion import convert
from vla.data.tools.limits import fitting_limits
from vla.types import Spec

# Forks a converting process for each line it reads, so that the imports are paid once.
CONVERTER = """
import os, sys
from vla.data.tools import derived
from vla.data.tools.conversion import convert
derived.EPISODES_PER_COMMIT = 1
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        convert(sys.argv[1], sys.argv[2], jobs=2)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


def provenance(dataset, index):
    info = json.loads(dataset.episodes["info"].iloc[index])
    return info["source"], info["source_episode"], info["source_format"]


def assert_same(left: EpisodeDataset, right: EpisodeDataset) -> None:
    assert left.spec == right.spec
    assert left.instructions == right.instructions
    pd.testing.assert_frame_equal(left.episodes, right.episodes)
    for name in ("state", "actions", "rewards", "success", "terminated"):
        np.testing.assert_array_equal(getattr(left.columns, name), getattr(right.columns, name))
    for camera in left.spec.cameras:
        assert list(left.images(camera)) == list(right.images(camera))


def test_what_its_maker_noted_is_kept_under_another_name(tmp_path, spec, episode):
    with DatasetWriter(tmp_path / "src", spec) as writer:
        writer.add_episode(replace(episode(3), info={"source": "teleop", "seed": 3}))
    convert(tmp_path / "src", tmp_path / "once")
    convert(tmp_path / "once", tmp_path / "twice")
    info = EpisodeDataset(tmp_path / "twice").episode(0).info
    assert (info["original_source"], info["source"], info["origin"], info["seed"]) == (
        "teleop",
        "once",
        "src#0",
        3,
    )


def test_kinds_without_a_rate_are_refused(write, tmp_path):
    with pytest.raises(DataError, match=r"kinds\.dx is for resampling; give control_hz too"):
        convert(write([3]), tmp_path / "out", kinds={"dx": "delta"})


def test_limits_are_met_up_to_rounding(tmp_path, spec, episode):
    for limit in (123.4, 255.3, 180.1, 1e5 / 3):
        wide = replace(spec, action_low=(-limit, -limit), action_high=(limit, limit))
        at_limit = replace(episode(3), actions=np.full((len(episode(3)), 2), np.float32(limit)))
        with DatasetWriter(tmp_path / f"{limit:.0f}", wide) as writer:
            writer.add_episode(at_limit)
            with pytest.raises(DataError, match="outside"):
                writer.add_episode(replace(at_limit, actions=at_limit.actions * np.float32(1.0001)))


def test_numbers_beyond_float32_are_named(tmp_path, spec, episode):
    with DatasetWriter(tmp_path / "out", spec) as writer:
        for name in ("rewards", "state"):
            values = np.asarray(getattr(episode(3), name), np.float64) * 0 + 1e39
            with pytest.raises(DataError, match=f"{name}: step 0.* is inf"):
                writer.add_episode(replace(episode(3), **{name: values}))


def test_everything_is_kept(write, tmp_path, episode):
    source = EpisodeDataset(write([3, 1, 4, None]))
    seen = []
    made = convert(
        source.root, tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    dataset = EpisodeDataset(tmp_path / "out")
    assert (made.episodes, made.frames, made.resumed, made.notes) == (4, source.num_frames, 0, ())
    assert max(seen) == (source.num_frames, source.num_frames)
    assert seen == sorted(seen)
    for index in range(4):
        old, new = source.episode(index), dataset.episode(index)
        assert old.images == new.images  # PNG files byte for byte
        assert new.info == old.info | {
            "source": "dataset",
            "source_episode": index,
            "source_format": "lerobot",
        }
        assert (old.instruction, old.terminated) == (new.instruction, new.terminated)
        for name in ("state", "actions", "rewards", "success"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))
    assert dataset.metadata["source"][0]["renderer"] == "egl"
    assert str(tmp_path) not in json.dumps(dataset.metadata)


def test_the_first_source_is_remembered(write, tmp_path):
    convert(write([2, 2, 2]), tmp_path / "second", episodes=[2, 1])
    convert(tmp_path / "second", tmp_path / "third")
    convert(tmp_path / "third", tmp_path / "fourth")
    dataset = EpisodeDataset(tmp_path / "fourth")
    assert provenance(dataset, 0) == ("third", 0, "lerobot")
    assert dataset.episode(0).info["origin"] == "dataset#2"
    assert dataset.episode(1).info["origin"] == "dataset#1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_same_command_goes_on_after_a_kill(write, tmp_path):
    source = write([4] * 16)
    whole = convert(source, tmp_path / "whole", jobs=1)
    command = [sys.executable, "-c", CONVERTER, str(source), str(tmp_path / "out")]
    rng = np.random.default_rng(0)
    counts = [0]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        for _ in range(3):
            server.stdin.write("convert\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            while committed(tmp_path / "out") == counts[-1]:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            assert server.stdout.readline() == "dead\n"
            counts.append(committed(tmp_path / "out"))
            if counts[-1] == 16:
                break
        server.stdin.close()
    assert counts == sorted(set(counts))
    assert 0 < counts[1] < 16
    made = convert(source, tmp_path / "out")
    assert (made.resumed, made.episodes, made.frames) == (counts[-1], 16, whole.frames)
    assert_same(EpisodeDataset(tmp_path / "out"), EpisodeDataset(tmp_path / "whole"))
    again = convert(source, tmp_path / "out")
    assert again.resumed == again.episodes == 16


def committed(root: Path) -> int:
    path = root / "meta/info.json"
    return int(json.loads(path.read_text())["total_episodes"]) if path.exists() else 0


def test_another_source_or_other_options_are_refused(write, tmp_path, episode, spec):
    source = write([2, 2])
    convert(source, tmp_path / "out", episodes="0:1")
    for options, message in (
        ({}, "holds a dataset of another call: other episodes are chosen"),
        ({"episodes": "0:1", "control_hz": 5}, "control_hz was None, is 5"),
        ({"episodes": "0:1", "video": VideoConfig()}, "video was None"),
    ):
        with pytest.raises(DataError, match=message):
            convert(source, tmp_path / "out", **options)
    with DatasetWriter(source, spec, resume=True) as writer:
        writer.add_episode(episode(2))
    with pytest.raises(DataError, match="the source has changed since; choose another folder"):
        convert(source, tmp_path / "out", episodes="0:1")
    with pytest.raises(DataError, match="it was made of dataset, not of other"):
        convert(write([2], "other"), tmp_path / "out", episodes="0:1")
    with pytest.raises(DataError, match="not of this command's making"):
        convert(tmp_path / "out", source.parent / "other")
    with pytest.raises(DataError, match="lies in the source"):
        convert(source, source / "inside")


def test_a_second_command_in_the_same_folder_is_refused(write, tmp_path):
    pytest.importorskip("fcntl")
    source = write([2])
    with (
        alone(tmp_path / "out"),
        pytest.raises(FolderInUseError, match="another process writes to it"),
    ):
        convert(source, tmp_path / "out")
    assert convert(source, tmp_path / "out").episodes == 1


def test_a_command_that_ended_in_its_first_moment_goes_on(write, tmp_path):
    (tmp_path / "out/meta").mkdir(parents=True)
    (tmp_path / "out/meta/vla_metadata.json.tmp").write_text("{")
    assert convert(write([2]), tmp_path / "out").episodes == 1


def test_a_full_disk_is_foreseen(write, tmp_path, monkeypatch):
    usage = output.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        output.shutil, "disk_usage", lambda folder: usage._replace(free=2**26 + 100)
    )
    with pytest.raises(
        DataError, match=r"about 0.\d MiB are needed beside 64.0 MiB to spare, 64.0 MiB are free"
    ):
        convert(write([4]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def damaged(source: EpisodeDataset, frame: int) -> None:
    """Flips a byte in the stored picture of a frame, in a file that is otherwise whole."""
    (file,) = (source.root / "data").rglob("*.parquet")
    table = pq.read_table(file)
    (picture,) = (picture for _, picture in source.images("front", frame, frame + 1))
    bad = bytearray(picture)
    bad[45] ^= 0xFF
    rows = table.column("observation.images.front").to_pylist()
    rows[frame]["bytes"] = bytes(bad)
    place = table.column_names.index("observation.images.front")
    column = pq.read_table(file).schema.field(place)
    pq.write_table(table.set_column(place, column, [rows]), file)


def test_a_damaged_picture_is_named_and_what_came_before_is_kept(write, tmp_path):
    source = EpisodeDataset(write([3, 3, 3]))
    damaged(source, 7)
    with pytest.raises(
        DataError, match=r"episode 2: camera 'front': step 1: not a readable image file"
    ):
        convert(source.root, tmp_path / "out")
    assert EpisodeDataset(tmp_path / "out").num_episodes == 2
    assert convert(source.root, tmp_path / "good", episodes="0:2").episodes == 2


def test_pictures_become_rgb_png_without_loss():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    file = encode_png(pixels)
    assert as_png(file) is file
    assert as_png(pixels) == file

    def stored(image, **options):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        return buffer.getvalue()

    jpeg = stored(Image.fromarray(pixels), format="JPEG")
    gray = stored(Image.fromarray(pixels[..., 0]), format="PNG")
    palette = stored(Image.fromarray(pixels).quantize(16), format="PNG")
    for data in (jpeg, gray, palette):
        with Image.open(io.BytesIO(as_png(data))) as new, Image.open(io.BytesIO(data)) as old:
            assert (new.format, new.mode) == ("PNG", "RGB")
            np.testing.assert_array_equal(np.array(new), np.array(old.convert("RGB")))


class MemoryReader(DatasetReader):
    """Decoded frames and JPEG files, as readers of videos and of other makers' formats give
    them."""

    def __init__(self, root, keys=None):
        self.root, self.instructions, self.metadata, self.warnings = (
            root,
            ["go"],
            {"score": math.nan},
            [f"{root}: the rate is a guess"],
        )
        self.spec = Spec({"a": (4, 4), "b": (8, 8)}, (), ("x",), (-1.0,), (1.0,), 10.0)
        self.episodes = pd.DataFrame(
            {"episode_index": [0, 1], "length": [2, 3], "first_frame": [0, 2], "task_index": [0, 0]}
        )
        rng = np.random.default_rng(0)
        self.a = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
        self.b = [jpeg(image) for image in rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)]

    @classmethod
    def matches(cls, root):
        return False

    def columns(self):
        actions = np.array([[0], [1], [2], [0.5], [-1]], np.float32)
        zeros = np.zeros(5, bool)
        return Columns(np.zeros((5, 0), np.float32), actions, np.ones(5, np.float32), zeros, zeros)

    def images(self, camera, start, stop):
        pictures = self.a if camera == "a" else self.b
        yield from ((frame, pictures[frame]) for frame in range(start, stop))

    def fingerprint(self):
        return "fixed"


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture
def in_memory(tmp_path, monkeypatch):
    from vla.common import registry

    registry.registered("formats")
    monkeypatch.setitem(registry._registry["formats"], "memory", MemoryReader)
    (tmp_path / "bridge" / "1.0.0").mkdir(parents=True)
    return tmp_path / "bridge" / "1.0.0"


def test_decoded_frames_jpeg_and_limits_that_actions_leave(in_memory, tmp_path):
    made = convert(in_memory, tmp_path / "out", format="memory")
    source, dataset = EpisodeDataset(in_memory, format="memory"), EpisodeDataset(tmp_path / "out")
    for index in range(2):
        for camera in ("a", "b"):
            np.testing.assert_array_equal(
                dataset.episode(index).frames(camera), source.episode(index).frames(camera)
            )
    assert provenance(dataset, 1) == ("bridge/1.0.0", 1, "memory")
    assert dataset.spec.action_high == (2.0,)
    assert made.notes[0] == "bridge/1.0.0: the rate is a guess"
    assert (
        "action 'x' goes from -1 to 2, the source says -1 to 1: the limits were widened"
        in made.notes[1]
    )
    assert dataset.metadata["made"]["notes"] == list(made.notes)
    assert dataset.metadata["source"] == [{"score": None}]


def test_rounding_is_no_reason_for_a_note(spec):
    actions = np.array([[1.0 + 2e-6, 0.0]], np.float32)
    wide, notes = fitting_limits(spec, actions)
    assert notes == []
    assert wide.action_high[0] >= actions[0, 0]
    assert replace(wide, action_high=spec.action_high) == spec


def test_as_video(in_memory, tmp_path):
    pytest.importorskip("av")
    convert(
        in_memory, tmp_path / "out", format="memory", video=VideoConfig(crf=1, pix_fmt="yuv444p")
    )
    dataset, source = EpisodeDataset(tmp_path / "out"), EpisodeDataset(in_memory, format="memory")
    assert list((tmp_path / "out").rglob("*.mp4"))
    for index in range(2):
        new, old = dataset.episode(index).frames("a"), source.episode(index).frames("a")
        assert np.abs(new.astype(int) - old.astype(int)).mean() < 4


def test_choosing_episodes():
    assert chosen_episodes(None, 3, "d") == [0, 1, 2]
    assert chosen_episodes("0:2,5", 6, "d") == [0, 1, 5]
    assert chosen_episodes(":2, 4:", 6, "d") == [0, 1, 4, 5]
    assert chosen_episodes([4, 2], 6, "d") == [4, 2]
    for text, message in (
        ("x", "'x' is no number and no range"),
        ("0:9", "there are episodes 0 to 5; the end is excluded"),
        ("6", "there are episodes 0 to 5"),
        ("1,0:2", "episode 1 is chosen twice"),
        ("", "'' is no number"),
        ("-1", "episode -1"),
    ):
        with pytest.raises(DataError, match=message):
            chosen_episodes(text, 6, "d")


def test_command_line(write, tmp_path):
    source, runner = write([4, 6]), CliRunner()
    command = [
        "data",
        "convert",
        str(source),
        str(tmp_path / "out"),
        "--episodes",
        "1",
        "--control-hz",
        "5",
    ]
    result = runner.invoke(app, [*command, "kinds.dx=delta", "control_hz=10"])
    assert result.exit_code == 0, result.output
    assert "1 episodes, 3 frames" in result.output
    assert "limits of displacements" in result.output
    dataset = EpisodeDataset(tmp_path / "out")
    assert dataset.spec.control_hz == 5
    old = EpisodeDataset(source).episode(1).actions[:, 0].reshape(3, 2).sum(1)
    np.testing.assert_allclose(dataset.episode(0).actions[:, 0], old, rtol=1e-6)
    for arguments, message in (
        (
            ["convert", str(source), str(tmp_path / "new"), "camera.front=x"],
            "unknown key (did you mean 'cameras'?)",
        ),
        (["convert", str(source), str(tmp_path / "new"), "--video", "h265"], "codec: no 'h265'"),
        (["convert", str(tmp_path / "none"), str(tmp_path / "new")], "no such folder"),
        (
            ["resample", str(source), str(tmp_path / "new"), "--control-hz", "-1"],
            "control_hz is -1.0",
        ),
    ):
        result = runner.invoke(app, ["data", *arguments])
        assert result.exit_code == 2
        assert message in result.output
        assert "Traceback" not in result.output


def test_real_rlds(real_data, tmp_path):
    """JPEG pictures of a TFDS dataset become PNG files of the same pixels."""
    source = EpisodeDataset(
        real_data / "bridge_rlds/bridge_dataset/1.0.0", keys=KeyMap(control_hz=5)
    )
    made = convert(source.root, tmp_path / "out", keys=KeyMap(control_hz=5), episodes="0:2,30")
    dataset = EpisodeDataset(made.root)
    assert dataset.spec == source.spec
    for new, old in enumerate([0, 1, 30]):
        for camera in source.spec.cameras:
            found = dataset.episode(new)
            np.testing.assert_array_equal(found.frames(camera), source.episode(old).frames(camera))
            assert all(file[:4] == b"\x89PNG" for file in found.images[camera])
        np.testing.assert_array_equal(dataset.episode(new).actions, source.episode(old).actions)
        assert provenance(dataset, new) == ("bridge_dataset/1.0.0", old, "rlds")


def test_real_video_at_another_rate(real_data, tmp_path):
    """Every twentieth frame of a video, and the last target of each second."""
    pytest.importorskip("av")
    source = EpisodeDataset(real_data / "lerobot_v2_picknplace")
    made = convert(source.root, tmp_path / "out", episodes="0", control_hz=1)
    assert not any(str(real_data) in note for note in made.notes)
    dataset = EpisodeDataset(made.root)
    length = int(source.episodes["length"].iloc[0])
    (camera,) = source.spec.cameras
    expected = [picture for frame, picture in source.images(camera, 0, 61) if frame % 20 == 0]
    np.testing.assert_array_equal(dataset.episode(0).frames(camera)[:4], np.stack(expected))
    last = np.minimum(np.arange(1, -(-length // 20) + 1) * 20, length) - 1
    np.testing.assert_array_equal(dataset.columns.actions, source.columns.actions[last])
    np.testing.assert_array_equal(dataset.columns.state, source.columns.state[:length:20])
    assert dataset.episode(0).rewards.sum() == pytest.approx(source.episodes["return"].iloc[0])
