from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla.config import registered
from vla.data import DataError, DatasetWriter, EpisodeDataset, encode_png, writer
from vla.types import Spec


def test_everything_written_is_read(write, episode, assert_holds, spec):
    root = write([3, 1, 5, None])
    dataset = EpisodeDataset(root)
    assert dataset.spec == spec
    assert dataset.num_episodes == len(dataset) == 4
    assert dataset.num_frames == dataset.episodes["length"].sum()
    assert dataset.instructions == ["open the drawer", "push the button"]
    assert dataset.metadata["renderer"] == "egl"
    assert dataset.metadata["versions"]["numpy"] == np.__version__
    for number, length in enumerate([3, 1, 5, None]):
        assert_holds(dataset, number, episode(number, length))
    assert dataset.episodes["success"].tolist() == [False, True, False, True]
    assert dataset.episodes["terminated"].tolist() == [False, True, False, True]
    returns = [
        episode(n, length).rewards.astype(float).sum() for n, length in enumerate([3, 1, 5, None])
    ]
    np.testing.assert_allclose(dataset.episodes["return"], returns)


def test_encoded_images_are_stored_as_they_are(tmp_path, episode, spec):
    given = episode(0, 3)
    files = {
        camera: [encode_png(image) for image in images] for camera, images in given.images.items()
    }
    with DatasetWriter(tmp_path / "d", spec) as w:
        w.add_episode(type(given)(**{**given.__dict__, "images": files}))
    assert EpisodeDataset(tmp_path / "d").episode(0).images == files


def test_files_roll_over_and_keep_one_row_group_per_episode(
    tmp_path, episode, assert_holds, spec, monkeypatch
):
    monkeypatch.setattr(writer, "OPEN_FILE_BYTES", 6000)
    monkeypatch.setattr(writer, "EPISODES_PER_TABLE", 3)
    monkeypatch.setattr(writer.schema, "FILES_PER_CHUNK", 2)
    root = tmp_path / "d"
    for part in range(4):
        with DatasetWriter(root, spec, resume=True) as w:
            for number in range(part * 2, part * 2 + 2):
                assert w.add_episode(episode(number, 5)) == number
    files = sorted((root / "data").glob("*/*.parquet"))
    assert len(files) >= 3
    assert {f.parent.name for f in files} >= {"chunk-000", "chunk-001"}
    assert sum(pq.read_metadata(f).num_row_groups for f in files) == 8
    assert len(list((root / "meta/episodes").glob("*/*.parquet"))) == 3
    dataset = EpisodeDataset(root)
    for number in range(8):
        assert_holds(dataset, number, episode(number, 5))


def test_layout_is_that_of_lerobot_v3(write):
    root = write([3, 2])
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 5, 2)
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert set(table.column_names) == set(info["features"])
    assert table.schema.field("action").type == pa.list_(pa.float32(), 2)
    assert table.schema.field("next.reward").type == pa.float32()
    assert table.column("index").to_pylist() == [0, 1, 2, 3, 4]
    assert table.column("frame_index").to_pylist() == [0, 1, 2, 0, 1]
    np.testing.assert_allclose(
        table.column("timestamp").to_numpy(), [0, 0.1, 0.2, 0, 0.1], rtol=1e-6
    )
    assert table.column("next.done").to_pylist() == [False, False, True, False, True]
    assert table.column("next.terminated").to_pylist() == [False, False, False, False, True]
    tasks = pd.read_parquet(root / "meta/tasks.parquet")
    assert tasks.iloc[0].name == "open the drawer"
    assert tasks["task_index"].tolist() == [0, 1]
    assert not list(root.rglob("*.tmp"))


def test_stored_statistics_are_those_of_the_frames(write, episode):
    root = write([4, 7, 2])
    stats = json.loads((root / "meta/stats.json").read_text())
    actions = np.concatenate(
        [episode(n, length).actions for n, length in enumerate([4, 7, 2])]
    ).astype(float)
    for key, expected in (
        ("min", actions.min(0)),
        ("max", actions.max(0)),
        ("mean", actions.mean(0)),
        ("std", actions.std(0)),
    ):
        np.testing.assert_allclose(stats["action"][key], expected, rtol=1e-6)
    assert stats["action"]["count"] == [13]
    pixels = (
        np.concatenate([episode(n, length).frames("wrist") for n, length in enumerate([4, 7, 2])])
        / 255
    )
    assert np.shape(stats["observation.images.wrist"]["mean"]) == (3, 1, 1)
    np.testing.assert_allclose(
        np.ravel(stats["observation.images.wrist"]["mean"]), pixels.mean((0, 1, 2))
    )
    # A writer that resumes knows the statistics of what is there already.
    whole = write([4, 7, 2, 3], "whole")
    with DatasetWriter(root, EpisodeDataset(root).spec, resume=True) as w:
        w.add_episode(episode(3, 3))
    resumed, expected = (json.loads((r / "meta/stats.json").read_text()) for r in (root, whole))
    for feature, values in expected.items():
        for key, value in values.items():
            np.testing.assert_allclose(resumed[feature][key], value, rtol=1e-9, atol=1e-12)


def test_a_robot_with_one_action_and_no_state_or_camera(tmp_path, episode):
    spec = Spec({}, (), ("push",), (-1.0,), (1.0,), 12.5)
    given = episode(0, 4)
    bare = type(given)(
        {},
        np.zeros((4, 0), np.float32),
        given.actions[:, :1],
        given.rewards,
        given.success,
        True,
        "push",
    )
    with DatasetWriter(tmp_path / "d", spec) as w:
        w.add_episode(bare)
    dataset = EpisodeDataset(tmp_path / "d")
    assert dataset.spec == spec
    np.testing.assert_array_equal(dataset.episode(0).actions, bare.actions)
    assert dataset.episode(0).state.shape == (4, 0)


def test_info_is_json_and_counts_per_task(write):
    root = write([3, 2, 4])
    files = [file for file in root.rglob("*") if file.is_file()]
    (root / ".cache").mkdir()
    (root / ".cache/frames.bin").write_bytes(bytes(1000))
    info = EpisodeDataset(root).info()
    json.dumps(info)
    assert info["bytes"] == sum(file.stat().st_size for file in files)
    assert (info["episodes"], info["frames"]) == (3, 9)
    assert [(t["episodes"], t["frames"], t["success_rate"]) for t in info["tasks"]] == [
        (2, 7, 0.0),
        (1, 2, 1.0),
    ]
    assert set(info["actions"]) == {"dx", "grip"}


def test_the_native_reader_is_registered():
    assert "lerobot" in registered("formats")


def test_a_foreign_dataset_without_spec_rewards_or_extra_columns(write, episode):
    """What LeRobot itself writes: no vla_spec.json, no next.*, several episodes in a row group."""
    root = write([3, 2])
    strip = ["next.reward", "next.done", "next.success", "next.terminated"]
    data = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(data).drop(strip), data)
    table = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(
        pq.read_table(table).drop(["success", "return", "terminated", "info", "task_index"]), table
    )
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] = {k: v for k, v in info["features"].items() if k not in strip}
    info["features"]["action"]["names"] = {"motors": ["dx", "grip"]}
    info["features"]["observation.state"]["names"] = None
    (root / "meta/info.json").write_text(json.dumps(info))
    for name in ("vla_spec.json", "vla_metadata.json"):
        (root / "meta" / name).unlink()

    dataset = EpisodeDataset(root)
    actions = np.concatenate([episode(0, 3).actions, episode(1, 2).actions])
    assert dataset.spec.action_names == ("dx", "grip")
    assert dataset.spec.state_names == ("state_0", "state_1", "state_2")
    assert dataset.spec.cameras == {"front": (6, 8), "wrist": (4, 4)}
    np.testing.assert_allclose(dataset.spec.action_low, actions.min(0), rtol=1e-6)
    np.testing.assert_array_equal(dataset.episode(1).actions, episode(1, 2).actions)
    np.testing.assert_array_equal(dataset.episode(1).frames("front"), episode(1, 2).frames("front"))
    assert dataset.episode(1).instruction == "push the button"
    assert not dataset.episode(1).rewards.any()
    assert not dataset.episode(1).terminated
    (root / "meta/stats.json").unlink()
    np.testing.assert_allclose(EpisodeDataset(root).spec.action_high, actions.max(0), rtol=1e-6)


def test_an_existing_folder_is_not_overwritten(write, spec, episode):
    root = write([2])
    with pytest.raises(DataError, match=re.escape("resume=True")):
        DatasetWriter(root, spec)
    other = Spec(
        {**spec.cameras, "front": (9, 9)}, spec.state_names, spec.action_names, (-1, -2), (1, 2), 10
    )
    with pytest.raises(DataError, match="camera 'front' is 9x9, expected 6x8"):
        DatasetWriter(root, other, resume=True)
    closed = DatasetWriter(root, spec, resume=True)
    closed.close()
    with pytest.raises(DataError, match="closed"):
        closed.add_episode(episode(0))
    assert EpisodeDataset(Path(root)).num_episodes == 1


def test_episodes_written_together_make_the_same_files(tmp_path, episode, spec, monkeypatch):
    monkeypatch.setattr(writer, "OPEN_FILE_BYTES", 6000)
    monkeypatch.setattr(writer, "EPISODES_PER_TABLE", 5)
    episodes = [episode(i) for i in range(23)]
    with DatasetWriter(tmp_path / "single", spec) as single:
        for each in episodes:
            single.add_episode(each)
    with DatasetWriter(tmp_path / "groups", spec) as groups:
        assert groups.add_episodes([]) == []
        assert groups.add_episodes(episodes[:1]) == [0]
        assert groups.add_episodes(episodes[1:14]) == list(range(1, 14))
    with DatasetWriter(tmp_path / "groups", spec, resume=True) as groups:
        groups.add_episodes(episodes[14:])

    def tables(root):
        return {str(p.relative_to(root)): pq.read_table(p) for p in root.rglob("*.parquet")}

    one, many = tables(tmp_path / "single"), tables(tmp_path / "groups")
    assert sum(name.startswith("data/") for name in one) > 3
    assert set(one) == set(many)
    assert all(one[name].equals(many[name]) for name in one)
    infos = [
        json.loads((tmp_path / name / "meta" / "info.json").read_text())
        for name in ("single", "groups")
    ]
    assert infos[0] == infos[1]


def test_a_group_with_one_wrong_episode_writes_nothing(tmp_path, episode, spec):
    with DatasetWriter(tmp_path / "data", spec) as groups:
        groups.add_episode(episode(0))
        wrong = dataclasses.replace(episode(2), actions=episode(2).actions[:, :1])
        with pytest.raises(DataError, match="episode 2"):
            groups.add_episodes([episode(1), wrong])
        assert groups.num_episodes == 1
        assert groups.add_episodes([episode(1)]) == [1]
    assert EpisodeDataset(tmp_path / "data").num_episodes == 2
