"""Episodes whose instruction changes: kept by the writer, the tools, the windows and the pages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.data import (
    DataError,
    DatasetWriter,
    Episode,
    EpisodeDataset,
    KeyMap,
    Windows,
    relabel_by_goal,
    relabel_by_instruction,
    task_balanced_weights,
)
from vla.data.loading.streaming.streamed_windows import StreamedWindows
from vla.data.tools.conversion import convert
from vla.data.tools.filtering import Filter, filter_dataset
from vla.data.tools.labels import label
from vla.data.tools.merging import merge
from vla.data.tools.plan import recipe
from vla.data.tools.splitting import split
from vla.data.validation.report import validate
from vla.data.view import write_view
from vla.data.view.summary import summarise
from vla.training.finetuning.pcgrad import task_names
from vla.types import Spec

REACH, LIFT, PLACE = "reach the cube", "lift it", "put it down"
TEXTS = (
    [REACH, REACH, LIFT, PLACE, PLACE],
    [REACH, LIFT, LIFT],
    [PLACE] * 2,
)


@pytest.fixture
def episodes(episode: Callable[..., Episode]) -> list[Episode]:
    made = []
    for number, texts in enumerate(TEXTS):
        changing = texts if len(set(texts)) > 1 else None
        whole = episode(number, len(texts))
        made.append(dataclasses.replace(whole, instruction=texts[0], instructions=changing))
    return made


@pytest.fixture
def root(tmp_path: Path, spec: Spec, episodes: list[Episode]) -> Path:
    with DatasetWriter(tmp_path / "steps", spec) as writer:
        for one in episodes[:2]:
            writer.add_episode(one)
    # the writer finds its tasks again
    with DatasetWriter(tmp_path / "steps", spec, resume=True) as writer:
        writer.add_episode(episodes[2])
    return tmp_path / "steps"


def texts_of(root: Path) -> list[list[str]]:
    dataset = EpisodeDataset(root)
    return [dataset.episode(i, images=False).step_instructions for i in range(len(dataset))]


def test_every_step_keeps_its_instruction(root, episodes):
    dataset = EpisodeDataset(root)
    assert dataset.instructions == [REACH, LIFT, PLACE]
    assert dataset.task_of_frames.tolist() == [0, 0, 1, 2, 2, 0, 1, 1, 2, 2]
    assert dataset.episodes["task_index"].tolist() == [0, 0, 2]  # of the first steps
    assert tuple(texts_of(root)) == TEXTS
    assert dataset.episode(2).instructions is None
    assert dataset.instruction_starts(0) == [(0, REACH), (2, LIFT), (3, PLACE)]
    assert dataset.warnings == []


def test_the_files_are_as_lerobot_has_them(root):
    data = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert data.column("task_index").to_pylist() == [0, 0, 1, 2, 2, 0, 1, 1, 2, 2]
    table = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    assert table.column("tasks").to_pylist() == [[REACH, LIFT, PLACE], [REACH, LIFT], [PLACE]]
    assert json.loads((root / "meta/info.json").read_text())["total_tasks"] == 3


def test_a_dataset_of_one_instruction_per_episode_reads_no_frames_for_it(write, monkeypatch):
    from vla.data.formats.lerobot_parts.data_files import DataFiles

    root = write([3, 2])
    monkeypatch.delattr(DataFiles, "values")
    dataset = EpisodeDataset(root)
    assert dataset.reader.frame_tasks is None
    assert dataset.task_of_frames.tolist() == [0, 0, 0, 1, 1]
    assert dataset.num_changing == 0


def test_subtasks_of_lerobot_are_read_by_their_key(write):
    root = write([3, 2])
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("subtask_index", pa.array([0, 1, 1, 1, 0])), path)
    texts = pa.table({"subtask_index": [0, 1], "subtask": [REACH, LIFT]})
    pq.write_table(texts, root / "meta/subtasks.parquet")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["subtask_index"] = {"dtype": "int64", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    plain = EpisodeDataset(root)
    assert plain.instructions == ["open the drawer", "push the button"]
    assert any("`instruction=subtask_index` reads them" in w for w in plain.warnings)
    dataset = EpisodeDataset(root, keys=KeyMap(instruction="subtask_index"))
    assert dataset.instructions == [REACH, LIFT]
    assert dataset.task_of_frames.tolist() == [0, 1, 1, 1, 0]
    assert not any("sub-tasks" in warning for warning in dataset.warnings)
    (root / "meta/subtasks.parquet").unlink()
    with pytest.raises(DataError, match=r"subtasks\.parquet: no such file"):
        EpisodeDataset(root, keys=KeyMap(instruction="subtask_index"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"instructions": [REACH]}, "instructions: has 1 texts for 5 actions"),
        ({"instruction": LIFT}, f"is '{LIFT}', instructions begin with '{REACH}'"),
        ({"instructions": [REACH] * 4 + [" "]}, "instructions: step 4: is ' '"),
    ],
)
def test_instructions_that_do_not_fit_are_refused(tmp_path, spec, episodes, changed, message):
    with DatasetWriter(tmp_path / "new", spec) as writer, pytest.raises(DataError, match=message):
        writer.add_episode(dataclasses.replace(episodes[0], **changed))


# --- tools ----------------------------------------------------------------------------------------


def test_copies_keep_them(root, write, tmp_path):
    convert(root, tmp_path / "copy")
    assert tuple(texts_of(tmp_path / "copy")) == TEXTS
    split(root, tmp_path / "parts", {"a": [1], "b": [0, 2]})
    assert texts_of(tmp_path / "parts/a") == [TEXTS[1]]
    assert texts_of(tmp_path / "parts/b") == [TEXTS[0], TEXTS[2]]
    merge([write([2]), root], tmp_path / "both")
    assert texts_of(tmp_path / "both") == [["open the drawer"] * 2, *TEXTS]


def test_a_copy_of_other_instructions_is_another_copy(root, tmp_path):
    first = EpisodeDataset(root)
    file = tmp_path / "labels.csv"
    file.write_text(f"episode_index,frame_index,instruction\n0,4,{LIFT}\n")
    other = EpisodeDataset(label(root, tmp_path / "other", file).root)
    assert first.episodes["task_index"].tolist() == other.episodes["task_index"].tolist()
    from vla.data.tools.plan import Plan

    prints = set()
    for dataset in (first, other):
        made = recipe(Plan("convert", [dataset], [(0, 0)], dataset.spec, {}), None)
        prints.add(made["sources"][0]["fingerprint"])
    assert len(prints) == 2


def test_a_filter_takes_the_episodes_that_hold_an_instruction(root, tmp_path):
    made = filter_dataset(root, tmp_path / "lifts", Filter(tasks=["LIFT*"]))
    assert texts_of(made.root) == [TEXTS[0], TEXTS[1]]
    made = filter_dataset(root, tmp_path / "places", Filter(tasks=["put*"]))
    assert texts_of(made.root) == [TEXTS[0], TEXTS[2]]


def test_another_rate_takes_the_text_of_the_step_that_is_seen(root, tmp_path):
    convert(root, tmp_path / "slow", control_hz=5)
    # steps 0, 2, 4 and 0, 2 of the source
    assert texts_of(tmp_path / "slow") == [[REACH, LIFT, PLACE], [REACH, LIFT], [PLACE]]


def test_labels_hold_from_the_step_that_gives_them(root, tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text(
        "episode_index,frame_index,instruction\n0,1,grasp it\n0,3,wave\n1,,stay\n2,1,look\n"
    )
    made = label(root, tmp_path / "labelled", file)
    assert texts_of(made.root) == [
        [REACH, "grasp it", "grasp it", "wave", "wave"],
        ["stay"] * 3,
        [PLACE, "look"],
    ]
    file.write_text("episode_index,frame_index,instruction\n0,,stay\n0,2,wave\n")
    with pytest.raises(DataError, match="instruction of episode 0 was given in line 2 already"):
        label(root, tmp_path / "twice", file)


def test_hindsight_labels_hold_throughout(root, tmp_path):
    # episode 0 failed: it lifted, which it was asked for, and pushed
    def achieved(episode: Episode) -> dict[str, int]:
        return {LIFT: 3, "push": 2} if len(episode) == 5 else {}

    made = relabel_by_instruction(
        root, tmp_path / "hindsight", achieved=achieved, per_episode=2, known_only=False
    )
    assert texts_of(made.root) == [TEXTS[0], ["push"] * 3, TEXTS[1], TEXTS[2]]
    made = relabel_by_goal(root, tmp_path / "goals", cameras=["front"], seed=0)
    assert all(len(set(texts)) == 1 for texts in texts_of(made.root))


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Windows, StreamedWindows])
def test_a_window_has_the_instruction_of_its_current_step(root, kind):
    windows = kind(EpisodeDataset(root), history=2, chunk=3, next_step=1)
    batch = windows.batch(np.arange(10))
    assert batch.instruction == [text for texts in TEXTS for text in texts]
    assert batch.task_index.tolist() == windows.task_index.tolist()
    # the chunk goes on across the change
    assert batch.action_mask[1, 1].tolist() == [True, True, True]
    np.testing.assert_array_equal(batch.actions[1, 1, 1], batch.actions[2, 1, 0])
    # history and next step do not: step 2 of episode 0 begins an instruction and ends it
    assert batch.mask[:3].tolist() == [
        [False, True, True],
        [True, True, False],
        [False, True, False],
    ]
    assert batch.timesteps[2].tolist() == [2, 2, 2]
    np.testing.assert_array_equal(batch.state[2, 0], batch.state[2, 1])
    assert not batch.action_mask[2, 0].any()
    # a new episode is no continuation, even if its instruction is the same
    assert batch.mask[8].tolist() == [False, True, True]


def test_chosen_episodes_keep_theirs(root):
    windows = Windows(EpisodeDataset(root), history=1, chunk=1, episodes=[2, 1])
    texts = windows.batch(np.arange(5)).instruction
    assert texts == [*TEXTS[2], *TEXTS[1]]


def test_tasks_are_balanced_by_their_steps(root):
    windows = Windows(EpisodeDataset(root), history=1, chunk=1)
    weights = task_balanced_weights(windows)
    # 3 windows of each of two instructions, 4 of the third: a third of the draws for each
    np.testing.assert_allclose(np.bincount(windows.task_index, weights), 1 / 3)


def test_what_an_episode_notes_as_its_task_is_that_of_all_its_instructions(root):
    assert task_names([EpisodeDataset(root)]) == dict.fromkeys([REACH, LIFT, PLACE], "drawer-open")


# --- what is said of them -------------------------------------------------------------------------


def test_info_counts_an_episode_for_each_instruction_that_it_holds(root):
    info = EpisodeDataset(root).info()
    rows = [(row["instruction"], row["episodes"], row["frames"]) for row in info["tasks"]]
    assert rows == [(REACH, 2, 3), (LIFT, 2, 3), (PLACE, 2, 4)]
    assert info["changing_episodes"] == 2
    # episode 1 is the one that was solved
    assert [row["success_rate"] for row in info["tasks"]] == [0.5, 0.5, 0.0]
    for command in ("info", "stats"):
        shown = CliRunner().invoke(app, ["data", command, str(root)], env={"COLUMNS": "200"})
        assert "The instruction changes within 2 of 3 episodes" in shown.output
        assert "each frame once" in shown.output
    assert summarise(EpisodeDataset(root), images=0)["tasks"][0]["mean_length"] == 1.5


def test_the_validator_notes_it(root, write):
    (found,) = [f for f in validate(root).findings if f.check == "changing_instructions"]
    assert found.severity == "note"
    assert "within 2 of 3 episodes: 5 of 10 frames" in found.message
    assert not [f for f in validate(root).findings if f.severity == "error"]
    names = [f.check for f in validate(write([3, 2])).findings]
    assert "changing_instructions" not in names


def test_the_page_shows_where_they_change(root, tmp_path):
    write_view(tmp_path / "page.html", EpisodeDataset(root))
    page = (tmp_path / "page.html").read_text()
    assert f"{REACH} → {LIFT} → {PLACE}" in page
    assert f"[[0, &#34;{REACH}&#34;], [2, &#34;{LIFT}&#34;], [3, &#34;{PLACE}&#34;]]" in page
    assert f'<option value="{LIFT}">' in page
    assert "The instruction changes within 2 episodes" in page
