"""Every mistake gives one DataError that names the place, the value and the remedy."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.data import DataError, DatasetWriter, EpisodeDataset, Windows, encode_png


def changed(values: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    copy = values.copy()
    copy[place] = value
    return copy


BAD_EPISODES = {
    "nan_action": (
        lambda e: {"actions": changed(e.actions, (2, 1), np.nan)},
        "episode 0: actions: step 2, 'grip' is nan; drop the episode",
    ),
    "infinite_state": (
        lambda e: {"state": changed(e.state, (1, 2), np.inf)},
        "episode 0: state: step 1, 'gripper' is inf",
    ),
    "nan_reward": (
        lambda e: {"rewards": changed(e.rewards, (3,), np.nan)},
        "episode 0: rewards: step 3 is nan",
    ),
    "action_outside_the_spec": (
        lambda e: {"actions": changed(e.actions, (3, 0), 1.5)},
        "step 3, 'dx' is 1.5, outside [-1.0, 1.0] of the spec; clip the action",
    ),
    "state_of_another_length": (
        lambda e: {"state": e.state[:-1]},
        "state: shape is (3, 3), expected (4, 3)",
    ),
    "success_of_another_length": (
        lambda e: {"success": e.success[:-1]},
        "success: shape is (3,), expected (4,)",
    ),
    "action_of_another_width": (
        lambda e: {"actions": e.actions[:, :1]},
        "actions: shape is (4, 1), expected (4, 2)",
    ),
    "empty": (lambda e: {"actions": e.actions[:0]}, "actions: has no steps"),
    "no_instruction": (
        lambda e: {"instruction": "  "},
        "instruction: is '  '; give the task in words",
    ),
    "camera_missing": (
        lambda e: {"images": {"front": e.images["front"]}},
        "camera 'wrist' of the spec is missing (given: front)",
    ),
    "camera_unknown": (
        lambda e: {"images": {**e.images, "top": e.images["front"]}},
        "camera 'top' is not in the spec (it has: front, wrist)",
    ),
    "image_size": (
        lambda e: {"images": {**e.images, "wrist": e.images["front"]}},
        "images['wrist']: is uint8 (4, 6, 8, 3), expected uint8 (4, 4, 4, 3)",
    ),
    "image_dtype": (
        lambda e: {"images": {**e.images, "wrist": e.images["wrist"] / np.float32(255)}},
        "images['wrist']: is float32",
    ),
    "too_few_images": (
        lambda e: {"images": {**e.images, "wrist": e.images["wrist"][:3]}},
        "images['wrist']: has 3 frames for 4 actions",
    ),
    "png_size": (
        lambda e: {"images": {**e.images, "wrist": [encode_png(i) for i in e.images["front"]]}},
        "images['wrist']: step 0 is 6x8, the spec says 4x4",
    ),
    "no_png": (
        lambda e: {"images": {**e.images, "wrist": [b"JPEG"] * 4}},
        "images['wrist']: step 0 is no PNG file; encode the image",
    ),
    "info_of_another_type": (lambda e: {"info": {"config": [1]}}, "info: 'config' is list"),
}


@pytest.mark.parametrize("case", BAD_EPISODES)
def test_an_episode_that_does_not_fit(tmp_path, episode, spec, assert_holds, case):
    change, message = BAD_EPISODES[case]
    good = episode(1, 4)
    with DatasetWriter(tmp_path / "d", spec) as writer:
        with pytest.raises(DataError, match=re.escape(message)):
            writer.add_episode(dataclasses.replace(good, **change(good)))
        assert writer.add_episode(good) == 0
    assert_holds(EpisodeDataset(tmp_path / "d"), 0, good)


def test_actions_at_the_bounds_are_within_them(tmp_path, episode, spec):
    good = episode(0, 2)
    edge = dataclasses.replace(good, actions=np.array([[1 + 5e-7, 2], [-1, -2]], np.float32))
    with DatasetWriter(tmp_path / "d", spec) as writer:
        assert writer.add_episode(edge) == 0


def edit_info(root, **values):
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_folder_missing(tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere: no such folder; make the dataset with `vla collect`"
    ):
        EpisodeDataset(tmp_path / "nowhere")


def test_folder_of_something_else(tmp_path):
    with pytest.raises(
        DataError, match=r"no dataset of a known format \(.*lerobot.*expected meta/info.json"
    ):
        EpisodeDataset(tmp_path)


def test_no_episodes(tmp_path, spec):
    DatasetWriter(tmp_path / "d", spec).close()
    with pytest.raises(DataError, match="has no episodes; collect some first"):
        EpisodeDataset(tmp_path / "d")


def test_no_episodes_chosen(write):
    dataset = EpisodeDataset(write([2]))
    with pytest.raises(DataError, match="no episodes are chosen"):
        Windows(dataset, history=1, chunk=1, episodes=[])
    with pytest.raises(DataError, match="there is no episode 1; there are 0 to 0"):
        Windows(dataset, history=1, chunk=1, episodes=[1])
    with pytest.raises(DataError, match="chosen twice"):
        Windows(dataset, history=1, chunk=1, episodes=[0, 0])


def test_parquet_without_footer(write, monkeypatch):
    monkeypatch.setattr("vla.data.writer.OPEN_FILE_BYTES", 1)
    root = write([3, 3, 3])
    file = root / "data/chunk-000/file-001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError) as error:
        EpisodeDataset(root)
    assert "file-001.parquet: parquet without footer" in str(error.value)
    assert "episodes 1 to 1 are lost, the other 2 of 3 are readable: copy the file" in str(
        error.value
    )


def test_episodes_table_without_footer(write):
    root = write([3])
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    file.write_bytes(b"PAR1")
    with pytest.raises(
        DataError, match=r"parquet without footer .* it holds the table of episodes"
    ):
        EpisodeDataset(root)


def test_info_that_is_no_json(write):
    root = write([3])
    (root / "meta/info.json").write_text("{")
    with pytest.raises(DataError, match=r"info.json: is no JSON"):
        EpisodeDataset(root)


def test_another_version_of_the_format(write):
    root = write([3])
    edit_info(root, codebase_version="v4.0")
    with pytest.raises(
        DataError, match=r"codebase_version is 'v4.0', expected v2.0, v2.1 or v3.0; convert it"
    ):
        EpisodeDataset(root)
    edit_info(root, codebase_version="v2.1")
    with pytest.raises(
        DataError,
        match=r"codebase_version is 'v2.1', this reader needs v3.0; read it as lerobot_v2",
    ):
        EpisodeDataset(root, format="lerobot")
    with pytest.raises(DataError, match=r"episodes.jsonl: no such file"):
        EpisodeDataset(root)


def test_features_that_contradict_the_columns(write):
    root = write([3])
    features = json.loads((root / "meta/info.json").read_text())["features"]
    wide = {**features, "action": {**features["action"], "shape": [7]}}
    edit_info(root, features=wide)
    with pytest.raises(
        DataError,
        match=re.escape("column 'action' holds float32[2], meta/info.json says float32[7]"),
    ):
        EpisodeDataset(root)
    edit_info(
        root, features={**features, "next.reward": {**features["next.reward"], "dtype": "int64"}}
    )
    with pytest.raises(
        DataError, match=re.escape("'next.reward' holds float32[1], meta/info.json says int64[1]")
    ):
        EpisodeDataset(root)
    edit_info(root, features={**features, "observation.force": features["next.reward"]})
    with pytest.raises(
        DataError, match=r"lacks the column 'observation.force' that meta/info.json lists"
    ):
        EpisodeDataset(root)
    edit_info(root, features={k: v for k, v in features.items() if k != "action"})
    with pytest.raises(DataError, match="features lack 'action'"):
        EpisodeDataset(root)
    edit_info(root, features={k: v for k, v in features.items() if k != "observation.images.wrist"})
    with pytest.raises(DataError, match="cameras wrist are not among the features"):
        EpisodeDataset(root)
    video = {**features["observation.images.wrist"], "dtype": "video"}
    edit_info(root, features={**features, "observation.images.wrist": video})
    with pytest.raises(
        DataError, match=r"declares the camera 'observation.images.wrist', of which .* no images"
    ):
        EpisodeDataset(root)


def test_more_episodes_promised_than_there_are(write):
    root = write([3])
    edit_info(root, total_episodes=2)
    with pytest.raises(DataError, match=r"info.json says 2 episodes, the episodes table has 1"):
        EpisodeDataset(root)


def test_a_missing_data_file(write, monkeypatch):
    monkeypatch.setattr("vla.data.writer.OPEN_FILE_BYTES", 1)
    root = write([3, 3])
    (root / "data/chunk-000/file-001.parquet").unlink()
    dataset = EpisodeDataset(root)
    assert "data files of episode 1 are missing" in dataset.warnings[0]
    assert dataset.num_frames == 3
    assert len(dataset.columns.actions) == 3


@pytest.mark.parametrize(
    ("column", "name"), [("action", "actions"), ("observation.state", "state")]
)
def test_nan_on_disk(write, column, name):
    root = write([3, 4])
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    index = table.column_names.index(column)
    values = table.column(column).combine_chunks().flatten().to_numpy().copy()
    width = len(values) // 7
    values[5 * width] = np.nan
    broken = pa.FixedSizeListArray.from_arrays(pa.array(values), width)
    pq.write_table(table.set_column(index, column, broken), file)
    remedy = r"leave them out \(`vla data delete \S+ \S+_without --episodes 1`\)"
    with pytest.raises(DataError, match=rf"episode 1: {name}: step 2, '\w+' is nan; {remedy}"):
        Windows(EpisodeDataset(root), history=1, chunk=1)


def test_rows_out_of_order(write):
    root = write([3, 4])
    file = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).sort_by([("index", "descending")]), file)
    with pytest.raises(DataError, match="frame 0 belongs to episode 1, the episodes table says 0"):
        Windows(EpisodeDataset(root), history=1, chunk=1)


def test_a_damaged_image(write):
    root = write([3])
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    images = table.column("observation.images.front").to_pylist()
    images[1]["bytes"] = images[1]["bytes"][:50]
    column = pa.array(images, table.schema.field("observation.images.front").type)
    pq.write_table(table.set_column(0, "observation.images.front", column), file)
    with pytest.raises(DataError, match="frame 1, camera 'front': not a readable image file"):
        Windows(EpisodeDataset(root), history=1, chunk=1)


def test_resume_of_what_another_program_made(write, spec):
    root = write([3])
    (root / "meta/vla_spec.json").unlink()
    with pytest.raises(DataError, match="was not made by this writer"):
        DatasetWriter(root, spec, resume=True)


def test_commands_report_a_path_that_cannot_be_in_one_line(write, tmp_path):
    source, file = write([3]), tmp_path / "file"
    file.write_text("")
    for arguments in (
        ["convert", str(source), str(file / "out")],
        ["view", str(source), "--out", str(file / "view.html")],
    ):
        result = CliRunner().invoke(app, ["data", *arguments])
        assert (result.exit_code, "Traceback" in result.output) == (2, False), result.output
        assert str(file) in result.stderr


def test_parts_that_are_no_numbers_are_refused(write, tmp_path):
    source = str(write([3, 2]))
    for part in ("train=[", "train=.", "train=1e"):
        result = CliRunner().invoke(app, ["data", "split", source, str(tmp_path / "out"), part])
        assert result.exit_code == 2, result.output


def test_words_that_look_like_markup_are_printed_as_they_are(tmp_path, spec, episode):
    with DatasetWriter(tmp_path / "odd", spec, metadata={"robot": "[/x]"}) as writer:
        writer.add_episode(replace(episode(3), instruction="place [/b] it [red]here"))
    for command in ("info", "stats"):
        result = CliRunner().invoke(
            app, ["data", command, str(tmp_path / "odd")], terminal_width=200
        )
        assert result.exit_code == 0, result.output
        assert "[/b]" in result.output
        assert "[red]" in result.output
