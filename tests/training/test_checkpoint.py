from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toy import file_size_limit

from vla.common.atomic import replace_folder
from vla.common.errors import Notice
from vla.training.checkpoint import (
    CheckpointError,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)


def _save(root: Path, step: int, loss: float | None = None, size: int = 10) -> None:
    def write_policy(folder: Path) -> None:
        (folder / "weights").write_bytes(b"w" * 100)

    scores = {} if loss is None else {"validation/loss": loss}
    save_checkpoint(
        root, step, write_policy, {"optimizer/m": torch.arange(float(size))}, {"scores": scores}
    )


def test_round_trip_without_pickle(tmp_path: Path) -> None:
    _save(tmp_path, 100)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.folder.name, checkpoint.step) == ("step-000100", 100)
    assert torch.equal(checkpoint.tensors()["optimizer/m"], torch.arange(10.0))
    assert {p.name for p in checkpoint.folder.iterdir()} == {
        "weights",
        "training_state.safetensors",
        "training_state.json",
    }


def test_steps_beyond_six_digits_sort_by_number(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        _save(tmp_path, step)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 1_000_000


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.4), (4, 0.3), (5, None)):
        _save(tmp_path, step, loss)
        prune_checkpoints(tmp_path, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-000002",
        "step-000004",
        "step-000005",
    ]


@pytest.mark.parametrize(
    "damage", ["no state", "truncated state", "truncated weights", "no weights", "temporary"]
)
def test_half_written_folders_are_ignored_and_named(tmp_path: Path, damage: str) -> None:
    _save(tmp_path, 1)
    _save(tmp_path, 2)
    broken = tmp_path / "step-000002"
    if damage == "no state":
        (broken / "training_state.json").unlink()
    elif damage == "truncated state":
        text = (broken / "training_state.json").read_text()
        (broken / "training_state.json").write_text(text[: len(text) // 2])
    elif damage == "truncated weights":
        (broken / "weights").write_bytes(b"w" * 99)
    elif damage == "no weights":
        (broken / "weights").unlink()
    else:
        broken = broken.rename(tmp_path / ".tmp-step-000002")
    with pytest.warns(Notice, match=broken.name):
        newest = newest_checkpoint(tmp_path, warn=True)
    assert newest is not None
    assert newest.step == 1

    _save(tmp_path, 2)  # the run is there again and rewrites it
    prune_checkpoints(tmp_path, keep_last=5)
    newest = newest_checkpoint(tmp_path, warn=True)
    assert newest is not None
    assert newest.step == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_damaged_tensors_name_the_file(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    path = tmp_path / "step-000001" / "training_state.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match=r"training_state\.safetensors"):
        checkpoint.tensors()


def test_a_write_that_fails_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    before = {p.name: p.read_bytes() for p in (tmp_path / "step-000001").iterdir()}
    with (
        file_size_limit(2000),
        pytest.raises(
            CheckpointError, match=r"step 2 .*the file would be larger.*step-000001 is untouched"
        ),
    ):
        _save(tmp_path, 2, size=100_000)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "step-000001").iterdir()} == before


def test_replace_folder_keeps_the_old_one_on_failure(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    replace_folder(folder, lambda f: (f / "a").write_text("old") and None)

    def fail(f: Path) -> None:
        (f / "a").write_text("new")
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        replace_folder(folder, fail)
    assert (folder / "a").read_text() == "old"
    replace_folder(folder, lambda f: (f / "b").write_text("new") and None)
    assert [p.name for p in folder.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_state_json_lists_every_file(tmp_path: Path) -> None:
    _save(tmp_path, 7)
    folder = tmp_path / "step-000007"
    sizes = json.loads((folder / "training_state.json").read_text())["files"]
    assert sizes == {
        p.name: p.stat().st_size for p in folder.iterdir() if p.name != "training_state.json"
    }
    shutil.copytree(folder, tmp_path / "step-000008")  # a copy by hand is as good
    assert newest_checkpoint(tmp_path) is not None


def test_a_changed_bit_of_the_training_state_is_found(tmp_path: Path) -> None:
    _save(tmp_path, 100)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    file = checkpoint.folder / "training_state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: its SHA-256 .* checkpoint before it"):
        checkpoint.tensors()
    # as former versions wrote it
    state = {key: value for key, value in checkpoint.state.items() if "sha256" not in key}
    assert replace(checkpoint, state=state).tensors()["optimizer/m"].shape == (10,)


def _edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        values = json.loads(text)
        # as former versions wrote it: what follows is found by what the file holds
        values.pop("checksum")
        change(values)
        return json.dumps(values)

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"validation/loss": 0.5', '"validation/loss": 0.4'),
        _edited(lambda v: v.update(step=10**30)),
        _edited(lambda v: v.update(step=-1)),
        _edited(lambda v: v.update(step=math.inf)),
        _edited(lambda v: v.update(step=True)),
        _edited(lambda v: v.update(scores=[["validation/loss", 1.0]])),
        _edited(lambda v: v.update(scores={"validation/loss": "0.1"})),
        _edited(lambda v: v.update(files={"weights": None})),
        _edited(lambda v: v.update(mean=-1)),
        _edited(lambda v: v.update(mean={"sums": {}, "count": None})),
        lambda text: "[1]",
    ],
)
def test_a_state_of_other_values_is_ignored_and_named(
    tmp_path: Path, damage: Callable[[str], str]
) -> None:
    _save(tmp_path, 1, 0.5)
    _save(tmp_path, 2, 0.5)
    path = tmp_path / "step-000002" / "training_state.json"
    damaged = damage(path.read_text())
    assert damaged != path.read_text()
    path.write_text(damaged)
    with pytest.warns(Notice, match="training_state.json is damaged"):
        newest = newest_checkpoint(tmp_path, warn=True)
    assert newest is not None
    assert newest.step == 1
    prune_checkpoints(tmp_path, keep_last=1)


def test_a_state_without_a_checksum_is_read(tmp_path: Path) -> None:
    _save(tmp_path, 1, 0.5)
    path = tmp_path / "step-000001" / "training_state.json"
    path.write_text(_edited(lambda v: None)(path.read_text()))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["scores"] == {"validation/loss": 0.5}
