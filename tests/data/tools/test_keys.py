"""What of a dataset is read as what can be said at every command that takes a dataset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.config import UserError
from vla.data import DataError, EpisodeDataset, KeyMap
from vla.data.tools.filtering import Filter, filter_dataset
from vla.data.tools.merging import merge
from vla.data.tools.splitting import split

runner = CliRunner()
KEYS = ("state=[arm]", "action=[cmd]", "task=push", "control_hz=5")


def write(root: Path, name: str = "d.npz", shift: float = 0.0) -> Path:
    """Four episodes whose arrays no convention of the format finds."""
    rng = np.random.default_rng(0)
    arrays = {}
    for episode in range(4):
        arrays[f"{episode}/arm"] = rng.normal(size=(12, 3))
        arrays[f"{episode}/cmd"] = shift + rng.normal(size=(12, 2))
    np.savez(root / name, **arrays)
    return root / name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path)


def run(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (arguments, result.stdout, result.stderr)
    return result.stdout


@pytest.mark.parametrize("prefix", ["", "keys.", "data.keys."])
def test_commands_that_look(data: Path, tmp_path: Path, prefix: str) -> None:
    keys = [prefix + key for key in KEYS]
    assert runner.invoke(app, ["data", "info", str(data)]).exit_code == 2
    assert "arm_0, arm_1, arm_2" in run("data", "info", data, *keys)
    found = json.loads(run("data", "stats", data, *keys, "--format", "npz", "--json"))
    assert (list(found["actions"]), found["control_hz"]) == (["cmd_0", "cmd_1"], 5)
    assert run("data", "validate", data, *keys, "--fast")
    run("data", "view", data, *keys, "--out", tmp_path / "view.html")
    assert "cmd_1" in (tmp_path / "view.html").read_text()
    run("tokenizer", "report", data, *keys, "--chunk", "2", "--format", "npz")


def test_commands_that_write(data: Path, tmp_path: Path) -> None:
    out = iter(tmp_path / f"out{number}" for number in range(9))

    def written(folder: Path) -> EpisodeDataset:
        dataset = EpisodeDataset(folder)
        assert dataset.spec.action_names == ("cmd_0", "cmd_1")
        assert (dataset.spec.control_hz, dataset.instructions) == (5, ["push"])
        return dataset

    (tmp_path / "labels.csv").write_text("episode_index,success\n0,1\n")
    commands = {
        "convert": [],
        "filter": ["--episodes", "0:2"],
        "delete": ["--episodes", "3"],
        "label": [tmp_path / "labels.csv"],
    }
    lengths = []
    for command, further in commands.items():
        folder = next(out)
        run("data", command, data, folder, *further, *KEYS, "--format", "npz")
        lengths.append(len(written(folder)))
    assert lengths == [4, 2, 3, 4]
    parts = next(out)
    run("data", "split", data, parts, "a=0.5", "keys.task=push", *KEYS[:2], "b=0.5", KEYS[3])
    assert [len(written(parts / name)) for name in "ab"] == [2, 2]
    other = write(tmp_path, "e.npz", shift=1.0)
    merged = next(out)
    run("data", "merge", data, *KEYS, other, "--out", merged, "--format", "npz")
    assert len(written(merged)) == 8


def test_a_part_may_be_called_as_a_key_is(data: Path, tmp_path: Path) -> None:
    keys = [f"keys.{key}" for key in KEYS]
    run("data", "split", data, tmp_path / "out", "task=0.5", "action=0.5", *keys)
    assert len(EpisodeDataset(tmp_path / "out/task")) == 2


def test_a_wrong_key_is_named(data: Path) -> None:
    result = runner.invoke(app, ["data", "filter", str(data), "out", "camera={}"])
    assert result.exit_code == 2
    assert "camera: unknown key (did you mean 'cameras'?)" in result.stderr


def test_the_same_call_in_python_and_with_a_key_for_each_source(tmp_path: Path) -> None:
    first, second = write(tmp_path), tmp_path / "named.npz"
    with np.load(first) as arrays:
        renamed = {name.replace("cmd", "move"): values for name, values in arrays.items()}
    np.savez(second, **renamed)
    keys = KeyMap(state=["arm"], action=["cmd"], task="push", control_hz=5)
    other = KeyMap(state=["arm"], action=["move"], task="push", control_hz=5)
    assert split(first, tmp_path / "parts", {"a": "0:3"}, keys=keys)["a"].episodes == 3
    with pytest.raises(DataError, match=r"action_names are \['move_0', 'move_1'\]"):
        merge([first, second], tmp_path / "out", keys=[keys, other])
    assert filter_dataset(first, tmp_path / "f", Filter(episodes="0"), keys=keys).episodes == 1


def test_an_interrupted_call_is_not_continued_with_other_keys(data: Path, tmp_path: Path) -> None:
    chosen = Filter(episodes="0")
    keys = KeyMap(state=["arm"], action=["cmd"], task="push", control_hz=5)
    filter_dataset(data, tmp_path / "out", chosen, keys=keys)
    assert filter_dataset(data, tmp_path / "out", chosen, keys=keys).resumed == 1
    other = keys.model_copy(update={"task": "pull"})
    with pytest.raises(UserError, match=r"keys was .*'task': 'push'.*, is .*'task': 'pull'"):
        filter_dataset(data, tmp_path / "out", chosen, keys=other)


@pytest.mark.parametrize("at", ["", "data.replay.0.keys."])
@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("`cameras={}` leaves it out", "`{at}cameras={{}}` leaves it out"),
        ("for example state=[a,b]", "for example {at}state=[a,b]"),
        ("(`keys.cameras.front=KEY`)", "(`{at}cameras.front=KEY`)"),
        ("it has: state, my.state=1, tasks=2", "it has: state, my.state=1, tasks=2"),
    ],
)
def test_a_message_names_keys_as_they_are_typed_there(
    data: Path, at: str, text: str, typed: str
) -> None:
    keys = KeyMap(state=["arm"], action=["cmd"])
    dataset = EpisodeDataset(data, keys=keys, keys_at=at)
    dataset.reader.warnings.append(text)
    assert dataset.warnings[-1] == typed.format(at=at)


def test_merging_robots_that_nobody_named_says_so(tmp_path: Path) -> None:
    first, second = write(tmp_path), write(tmp_path, "e.npz", shift=1.0)
    keys = KeyMap(state=["arm"], action=["cmd"], task="push", control_hz=5)
    notes = merge([first, second], tmp_path / "out", keys=keys).notes
    assert any("'cmd_0', which was made up to number a dimension" in note for note in notes)


def test_a_repository_as_a_path_names_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"`hf://datasets/lerobot/pusht` reads the dataset"):
        EpisodeDataset("lerobot/pusht")
    (tmp_path / "data").mkdir()
    # beside other datasets it is more likely a misspelt folder
    with pytest.raises(DataError, match=r"no such folder; make the dataset.*hf://datasets/data/mt"):
        EpisodeDataset("data/mt10")
    with pytest.raises(DataError, match=r"or correct the path$"):
        EpisodeDataset(tmp_path / "user/name")
