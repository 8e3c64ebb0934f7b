"""Evaluation and collection on a real Ray of one node: the same files as on this machine, also where actors are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from point_env import PointConfig
from ray_node import ray  # noqa: F401 - a fixture
from restless import Restless, Trace

from vla.config import UserError
from vla.sim_eval.collection.recording import CollectConfig, collect
from vla.sim_eval.comparison.results import EPISODES_FILE
from vla.sim_eval.evaluation import EvalConfig, evaluate
from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.scheduler import RolloutError, rollout
from vla.types import Observation

POINT = PointConfig(image_size=48, horizon=12)


def _kill_an_actor() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # of those that end meanwhile
            if "WorkerActor" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
                return
    pytest.fail("there is no actor")


class Killer(Restless):
    """Kills an actor at its third and ninth call."""

    def __init__(self) -> None:
        super().__init__(POINT.spec())
        self.count = 0

    def act(
        self, observation: Observation, memory: Trace | None = None
    ) -> tuple[torch.Tensor, Trace]:
        self.count += 1
        if self.count in (3, 9):
            _kill_an_actor()
        return super().act(observation, memory)


def _evaluated(actor: Restless, out: Path, **options) -> tuple[bytes, int]:
    config = EvalConfig(
        env=POINT, out=str(out), episodes_per_task=5, videos_per_task=1, failure_videos=0, **options
    )
    results = evaluate(actor, config, name="restless", progress=False)
    return (out / EPISODES_FILE).read_bytes(), len(results.losses)


@pytest.mark.usefixtures("ray")
def test_evaluation_is_that_of_this_machine_and_survives_kills(tmp_path: Path) -> None:
    local, _ = _evaluated(Restless(POINT.spec()), tmp_path / "local", workers=2)
    assert _evaluated(Restless(POINT.spec()), tmp_path / "ray", launcher="ray") == (local, 0)
    assert _evaluated(Killer(), tmp_path / "killed", launcher="ray", workers=2) == (local, 2)


@pytest.mark.usefixtures("ray")
def test_collection_is_that_of_this_machine(tmp_path: Path) -> None:
    for launcher in ("local", "ray"):
        collect(
            CollectConfig(
                env=POINT,
                out=tmp_path / launcher,
                episodes_per_task=2,
                workers=2,
                launcher=launcher,
            )
        )
    files = {
        p.relative_to(tmp_path / "local") for p in (tmp_path / "local").rglob("*") if p.is_file()
    }
    assert files == {
        p.relative_to(tmp_path / "ray") for p in (tmp_path / "ray").rglob("*") if p.is_file()
    }
    assert all(
        (tmp_path / "local" / f).read_bytes() == (tmp_path / "ray" / f).read_bytes() for f in files
    )


@pytest.mark.usefixtures("ray")
def test_trouble_in_actors_is_told() -> None:
    jobs = [Job("red", "", 0, 0, 12, "expert")]
    with pytest.raises(
        RolloutError, match=r"task 'red', seed 0: the env raised[\s\S]*the simulator exploded"
    ):
        rollout(PointConfig(trouble="raise"), jobs, workers=1, launcher="ray")
    with pytest.raises(RolloutError, match=r"gave no answer for 1 seconds"):
        rollout(
            PointConfig(trouble="hang always"),
            jobs,
            workers=1,
            launcher="ray",
            timeout=1.0,
            retries=0,
        )
    with pytest.raises(
        UserError, match=r"workers: 3 Ray actors need a CPU each, the cluster has 2"
    ):
        rollout(
            POINT, [Job("red", "", e, e, 12, "expert") for e in range(3)], workers=3, launcher="ray"
        )


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from point_env import PointConfig
from vla.config import UserError
from vla.sim_eval.rollouts.scheduler import rollout
from vla.sim_eval.rollouts.jobs import Job
job = Job("red", "", 0, 0, 12, "expert")
for folder in sys.argv[2:]:
    sys.path.insert(0, folder)
    try:
        rollout(PointConfig(), [job], workers=1, launcher="ray", ray_address="127.0.0.1:9")
    except UserError as error:
        print(error)
    sys.path.remove(folder)
"""


def test_no_cluster_and_no_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "ray.py").write_text("raise ImportError")
    # an import that fails leaves nothing behind: the next one finds the real library
    folders = [str(missing), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parents[2] / "helpers"), *folders],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    without, with_ray = found.stdout.splitlines()
    assert "pip install 'vla[ray]'" in without
    assert "start one with `ray start --head`" in with_ray
