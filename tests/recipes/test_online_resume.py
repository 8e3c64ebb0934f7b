"""Online runs that are killed, meet a full disk, learn nothing or change their workers: they go on to the same weights."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import point_env  # noqa: F401 - registers its env
import pytest
from ray_node import ray  # noqa: F401 - a fixture

from vla.config import ConfigError, validate
from vla.data import DatasetWriter, EpisodeDataset
from vla.recipes.online import OnlineConfig, online
from vla.training.checkpoint import CheckpointError, newest_checkpoint
from vla.training.state import TrainingState

HELPERS = Path(__file__).parents[1] / "helpers"
WEIGHTS = "policy/model.safetensors"
TOKENS = {"head": {"type": "categorical"}, "tokenizer": {"type": "bins", "num_bins": 5}}
MAZE: dict[str, Any] = {
    "env": {"type": "stitch", "horizon": 12},
    "policy": {"type": "mlp", "hidden": 16, "language": None, **TOKENS},
    "objective": {"type": "bc"},
    "rounds": 3,
    "episodes_per_round": 4,
    "updates": 3,
    "batch_size": 8,
    "evaluate": None,
}
POINT = {"env": {"type": "test_point", "image_size": 16, "horizon": 8}}


def config_of(out: Path, **changes: Any) -> OnlineConfig:
    return validate(OnlineConfig, {**MAZE, "out": str(out), **changes})


def rounds_of(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    assert rounds_of(one) == rounds_of(other)
    assert (one / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()


def test_killed_three_times_the_rounds_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(HELPERS / "kill_online.py"), str(tmp_path), "3"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HELPERS}:{HELPERS.parents[1]}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("killed after") == 3
    assert [line["round"] for line in rounds_of(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("what", ["episodes", "checkpoint"])
def test_the_last_border_survives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    online(config_of(tmp_path / "whole"))
    owner, name = {
        "episodes": (DatasetWriter, "add_episodes"),
        "checkpoint": (TrainingState, "_write_policy"),
    }[what]
    real = getattr(owner, name)
    calls = 0

    def full(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, full)
    with pytest.raises((OSError, CheckpointError), match=r"(?i)no space left"):
        online(config_of(tmp_path / "full"))
    monkeypatch.setattr(owner, name, real)
    border = newest_checkpoint(tmp_path / "full" / "checkpoints")
    assert border is not None
    assert border.step == 3
    online(config_of(tmp_path / "full"), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "full")


def test_rounds_in_which_nothing_is_learned_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # twelve steps do not lead to the goal: nothing is solved, and nothing to be imitated
    changes = {"objective": {"type": "filtered_bc"}}
    online(config_of(tmp_path / "whole", **changes))
    assert [line["updates"] for line in rounds_of(tmp_path / "whole")] == [0, 0, 0]
    real = TrainingState.save
    calls = 0

    def killed(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # the line of the second round is written, its checkpoint is not
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(TrainingState, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        online(config_of(tmp_path / "cut", **changes))
    monkeypatch.setattr(TrainingState, "save", real)
    online(config_of(tmp_path / "cut", **changes), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert len(EpisodeDataset(tmp_path / "cut" / "episodes")) == 12


@pytest.mark.usefixtures("ray")
def test_workers_here_and_on_ray_have_the_same_rounds(tmp_path: Path) -> None:
    changes = {**POINT, "rounds": 2}
    online(config_of(tmp_path / "none", **changes))
    # where envs are stepped may change when a run is gone on with
    online(config_of(tmp_path / "some", **changes | {"rounds": 1}, act={"workers": 1}))
    on_ray = config_of(tmp_path / "some", **changes, act={"workers": 2, "launcher": "ray"})
    online(on_ray, resume=True)
    assert_same_run(tmp_path / "none", tmp_path / "some")


def test_what_decides_the_rounds_may_not_change(tmp_path: Path) -> None:
    online(config_of(tmp_path, rounds=1))
    with pytest.raises(ConfigError, match=r"act\.replan_every: is 2, the run in .* has 1"):
        online(config_of(tmp_path, act={"replan_every": 2}), resume=True)
    with pytest.raises(ConfigError, match=r"objective\.type: is 'filtered_bc', the run"):
        online(config_of(tmp_path, objective={"type": "filtered_bc"}), resume=True)


def test_only_rounds_that_are_kept_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online(config_of(tmp_path / "run", keep=60, rounds=3))
    read = []
    real = EpisodeDataset.episode

    def reading(self: EpisodeDataset, number: int) -> Any:
        read.append(number)
        return real(self, number)

    monkeypatch.setattr(EpisodeDataset, "episode", reading)
    online(config_of(tmp_path / "run", keep=60, rounds=4), resume=True)
    # rounds of 48 steps: the newest two hold 60
    assert read == [4, 5, 6, 7, 8, 9, 10, 11]
    online(config_of(tmp_path / "whole", keep=60, rounds=4))
    assert_same_run(tmp_path / "whole", tmp_path / "run")
