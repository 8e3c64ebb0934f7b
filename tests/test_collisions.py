"""Whoever comes second to a folder or a file is refused at once; `benchmarks/collisions.py` does this with pairs of
commands that run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.common.atomic import atomic_path
from vla.common.folder_lock import alone
from vla.data import DatasetWriter, Episode
from vla.types import Spec

pytest.importorskip("fcntl")
SPEC = Spec({}, ("x",), ("dx",), (-1.0,), (1.0,), 10.0)
COMMANDS = {
    "convert": "data convert DATA OUT",
    "resample": "data resample DATA OUT --control-hz 5",
    "merge": "data merge DATA DATA --out OUT",
    "split": "data split DATA OUT train=0.5 val=0.5",
    "filter": "data filter DATA OUT --min-length 2",
    "delete": "data delete DATA OUT --episodes 0",
    "label": "data label DATA OUT LABELS",
    "tokenizer report": "tokenizer report DATA --chunk 2 --out OUT",
    "compare": "compare a b --out OUT",
    "fqe": "fqe policies=[a] data.path=DATA out=OUT",
    "collect": "collect EMPTY env={type:pointmaze} out=OUT",
    "train": "train EMPTY steps=1 policy={type:mlp} data.path=DATA out=OUT",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    numbers = np.linspace(-1, 1, 6, dtype=np.float32)[:, None]
    zeros = np.zeros(6)
    with DatasetWriter(tmp_path / "data", SPEC) as writer:
        for _ in range(4):
            writer.add_episode(Episode({}, numbers, numbers, zeros, zeros > 0, False, "move"))
    (tmp_path / "labels.csv").write_text("episode_index,success\n0,true\n")
    (tmp_path / "empty.yaml").write_text("{}\n")
    return tmp_path / "data"


def run(command: str, folder: Path) -> str:
    """What a command says on its way to status 2."""
    places = {"DATA": "data", "OUT": "out", "LABELS": "labels.csv", "EMPTY": "empty.yaml"}
    for word, name in places.items():
        command = command.replace(word, str(folder / name))
    # a space is needed behind the colon, and would part the argument
    arguments = [text.replace("{type:", "{type: ") for text in command.split()]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    return result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_folder_that_another_holds(data: Path, tmp_path: Path, name: str) -> None:
    with alone(tmp_path / "out"):
        said = run(COMMANDS[name], tmp_path)
    assert f"{tmp_path / 'out'}: another process writes to it" in said.replace("\n", "")
    assert not list((tmp_path / "out").iterdir())


def test_a_repair_of_a_dataset_that_is_being_recorded(data: Path, tmp_path: Path) -> None:
    (data / "meta/stats.json").unlink()
    with DatasetWriter(data, SPEC, resume=True):
        (data / "meta/stats.json").unlink()
        assert "another process writes to it" in run("data validate DATA --fix", tmp_path)


def test_a_page_that_another_writes(data: Path, tmp_path: Path) -> None:
    with atomic_path(tmp_path / "view.html") as temporary:
        temporary.write_text("first")
        said = run(f"data view DATA --out {tmp_path / 'view.html'}", tmp_path)
        assert "another process writes to it" in said
    assert (tmp_path / "view.html").read_text() == "first"


def test_critics_are_diagnosed_by_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run", file=".diagnose.lock"):
        assert "another process writes to it" in run(f"diagnose {tmp_path / 'run'}", tmp_path)
    # a run that goes on is no hindrance
    with alone(tmp_path / "run"):
        assert "no training run" in run(f"diagnose {tmp_path / 'run'}", tmp_path)
