"""Evaluations that are interrupted: what is kept, how they go on, and that a folder of results is of
one evaluation at every moment."""

from __future__ import annotations

import contextlib
import json
import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from point_env import PointConfig

from vla.common.folder_lock import FolderInUseError, alone
from vla.config import UserError
from vla.sim_eval import EvalConfig, Results, evaluate
from vla.sim_eval.comparison import installing
from vla.types import Observation

HELPERS = Path(__file__).parents[1] / "helpers"


class Drifting(torch.nn.Module):
    """Goes to the right, more or less, as its only weight says; stops the process at a call."""

    history = 1
    spec = PointConfig().spec()

    def __init__(self, stops_at: int | None = None, weight: float = 0.7) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.stops_at = stops_at
        self.calls = 0

    def act(self, observation: Observation, memory: None = None) -> tuple[torch.Tensor, None]:
        self.calls += 1
        if self.calls == self.stops_at:
            raise KeyboardInterrupt
        size = observation.batch_size
        noise = 0.3 * torch.rand(size, 1, 2)
        right = torch.tensor([1.0, 0.0]) * self.weight.detach()
        return (right + noise).clamp(-1, 1), None


def config(out: Path, **values) -> EvalConfig:
    chosen = {
        "env": {"type": "test_point"},
        "episodes_per_task": 6,
        "batch_size": 2,
        "videos_per_task": 1,
        "workers": 0,
        "out": str(out),
    }
    return EvalConfig(**{**chosen, **values})


def content(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of all that results consist of, but for their folder and the time they took."""
    values = json.loads((folder / "results.json").read_text())
    values["config"].pop("out")
    values.pop("seconds")
    values.pop("command")
    found = {"results.json": json.dumps(values).encode()}
    for file in [*folder.glob("*.parquet"), *folder.glob("videos/*.mp4")]:
        found[file.relative_to(folder).as_posix()] = file.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    evaluate(Drifting(), config(out), progress=False)
    return out


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another seed."""
    out = tmp_path_factory.mktemp("other")
    evaluate(Drifting(), config(out, seed=1), progress=False)
    return out


def interrupted(out: Path, at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(Drifting(stops_at=at), config(out), progress=False, resume=True)


def test_interrupted_again_and_again_it_equals_an_undisturbed_one(whole: Path, tmp_path: Path):
    # calls of a batch that is complete are not made again, so a later process gets further
    for at in (50, 30, 90):
        interrupted(tmp_path, at)
    resumed = Drifting()
    evaluate(resumed, config(tmp_path), progress=False, resume=True)
    assert content(tmp_path) == content(whole)
    # 40 calls of each of six batches, three of which were complete
    assert resumed.calls == 120


def test_a_complete_one_is_returned(whole: Path):
    policy = Drifting(stops_at=1)
    again = evaluate(policy, config(whole), progress=False, resume=True)
    assert again.episodes == Results.load(whole).episodes


def test_what_was_kept_is_not_lost_without_a_word(tmp_path: Path):
    interrupted(tmp_path, 60)
    with pytest.raises(UserError, match=r"keeps \d+ episodes .* --resume, or .* --restart"):
        evaluate(Drifting(), config(tmp_path), progress=False)
    evaluate(Drifting(), config(tmp_path), progress=False, restart=True)
    assert not (tmp_path / installing.UNFINISHED).exists()


@pytest.mark.parametrize(
    ("policy", "changes", "differs"),
    [
        (Drifting(weight=0.5), {}, "policy="),
        (Drifting(), {"seed": 1}, "seed=0, this one has 1"),
        (Drifting(), {"batch_size": 3}, "batch_size=2"),
    ],
)
def test_another_evaluation_is_refused(tmp_path: Path, policy, changes, differs: str):
    interrupted(tmp_path, 60)
    with pytest.raises(UserError, match=differs):
        evaluate(policy, config(tmp_path, **changes), progress=False, resume=True)


def test_a_journal_that_was_cut_off_within_a_line(whole: Path, tmp_path: Path):
    interrupted(tmp_path, 60)
    journal = tmp_path / installing.UNFINISHED / "episodes.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    evaluate(Drifting(), config(tmp_path), progress=False, resume=True)
    assert content(tmp_path) == content(whole)


def test_the_earlier_results_stay_until_the_new_ones_are_complete(whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Drifting(stops_at=20), config(tmp_path, seed=1), progress=False)
    assert content(tmp_path)["results.json"] == content(whole)["results.json"]
    before = Results.load(tmp_path)
    assert all((tmp_path / r.video).is_file() for r in before.episodes if r.video)
    without_films = config(tmp_path, seed=1, videos_per_task=0, failure_videos=0)
    evaluate(Drifting(), without_films, progress=False, restart=True)
    assert not list(tmp_path.glob("videos/*.mp4")), "films of the earlier results are gone"
    assert Results.load(tmp_path).config["seed"] == 1


def test_what_dies_before_the_last_rename_has_lost_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(installing, "move_folder", Stopping(None, 1))
    with pytest.raises(KeyboardInterrupt):
        evaluate(Drifting(), config(tmp_path), progress=False)
    monkeypatch.undo()
    resumed = Drifting(stops_at=1)
    evaluate(resumed, config(tmp_path), progress=False, resume=True)
    assert resumed.calls == 0
    assert content(tmp_path) == content(whole)


class Stopping:
    """A function that stops the process at a call."""

    def __init__(self, real, at: int) -> None:
        self.real = real
        self.calls_left = at

    def __call__(self, *args, **kwargs):
        self.calls_left -= 1
        if not self.calls_left:
            raise KeyboardInterrupt
        return self.real(*args, **kwargs)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
@pytest.mark.parametrize("stop", ["replace_file", "shutil.rmtree", "move_folder"])
def test_replacing_results_may_be_interrupted_anywhere(
    whole: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str, at: int
):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.copytree(other, out / installing.UNFINISHED)
    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        place = f"{installing.__name__}.{stop}"
        patched.setattr(place, Stopping(operator.attrgetter(stop)(installing), at))
        installing.install(out / installing.UNFINISHED, out)
    found = Results.load(out)
    assert found.config["seed"] in (0, 1)
    assert found.folder is not None
    assert all((found.folder / r.video).is_file() for r in found.episodes if r.video)
    installing.finish_installing(out)
    assert content(out) == content(other if found.config["seed"] else whole)
    assert found.config["seed"] == 0 or not list(out.glob("*.tmp"))


def test_a_second_one_in_the_same_folder_is_refused(tmp_path: Path):
    refused = pytest.raises(FolderInUseError, match="another process writes to it")
    with alone(tmp_path, file=".eval.lock"), refused:
        evaluate(Drifting(), config(tmp_path), progress=False)


def test_killed_from_outside_it_goes_on(tmp_path: Path):
    settings = config(tmp_path, episodes_per_task=40, videos_per_task=0)
    text = json.dumps(settings.model_dump(mode="json"))
    program = (
        "import json, sys; import point_env; from vla.sim_eval import EvalConfig, evaluate; "
        "evaluate('expert', EvalConfig(**json.loads(sys.argv[1])), progress=False)"
    )
    path = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", program, text], env={**os.environ, "PYTHONPATH": path}
    )
    journal = tmp_path / installing.UNFINISHED / "episodes.jsonl"
    while process.poll() is None and (not journal.exists() or journal.read_text().count("\n") < 4):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    results = evaluate("expert", settings, progress=False, resume=True)
    undisturbed = config(tmp_path / "other", episodes_per_task=40, videos_per_task=0)
    assert results.episodes == evaluate("expert", undisturbed, progress=False).episodes
