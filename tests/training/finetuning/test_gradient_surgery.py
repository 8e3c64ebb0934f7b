"""Conflicting tasks: projections by hand, and the gradient of a batch however it is divided."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import training_toy
from accelerate import Accelerator
from torch import Tensor, nn
from training_toy import toy_config

from vla.config import ConfigError
from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows
from vla.data.loading.multi_robot import RobotBatch
from vla.training import train
from vla.training.finetuning.pcgrad import (
    check_projection,
    project_conflicts,
    projected_backward,
    task_names,
)
from vla.training.metrics import Stopwatch
from vla.training.objective import Learner
from vla.training.objectives.bc import BC
from vla.training.step import backward

HELPERS = Path(__file__).parents[2] / "helpers"


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_two_conflicting_tasks_by_hand() -> None:
    # f1 = (x - 1)^2 and f2 = (x + 3)^2 / 2 + y, at x = y = 0: gradients (-2, 0) and (3, 1)
    x = torch.zeros(2, requires_grad=True)
    losses = [(x[0] - 1) ** 2, (x[0] + 3) ** 2 / 2 + x[1]]
    gradients = torch.stack([torch.autograd.grad(loss, x)[0] for loss in losses])
    assert gradients.tolist() == [[-2.0, 0.0], [3.0, 1.0]]
    # g1 - (g1.g2 / |g2|^2) g2 = (-2, 0) + 0.6 (3, 1) = (-0.2, 0.6);  g2 - (g2.g1 / |g1|^2) g1 = (3, 1) + 1.5 (-2, 0) = (0, 1)
    total, conflicts = project_conflicts(gradients, _rng())
    torch.testing.assert_close(total, torch.tensor([-0.2, 1.6]))
    assert conflicts == 1.0
    # neither task is worked against
    assert bool((gradients @ total >= 0).all())


def test_without_conflicts_it_is_the_sum() -> None:
    gradients = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
    total, conflicts = project_conflicts(gradients, _rng())
    assert total.tolist() == [2.0, 3.0]
    assert conflicts == 0.0


def test_three_tasks_follow_the_algorithm_and_the_seed_decides_the_order() -> None:
    gradients = torch.randn(3, 4, generator=torch.Generator().manual_seed(2)).double()
    gradients[1] -= 2 * gradients[0]
    gradients[2] -= gradients[0] + gradients[1]

    def by_hand(rng: np.random.Generator) -> Tensor:
        total = torch.zeros(4).double()
        for i in range(3):
            g = gradients[i].clone()
            for j in rng.permutation([k for k in range(3) if k != i]).tolist():
                inner = float(g @ gradients[j])
                if inner < 0:
                    g -= inner / float(gradients[j] @ gradients[j]) * gradients[j]
            total += g
        return total

    found = [project_conflicts(gradients, _rng(seed))[0] for seed in range(6)]
    for seed, total in enumerate(found):
        torch.testing.assert_close(total, by_hand(_rng(seed)))
    assert any(not torch.allclose(total, found[0]) for total in found)


def _gradient(
    windows: Windows,
    parts: list[np.ndarray],
    *,
    projected: bool,
    tasks: dict[str, str] | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    torch.manual_seed(0)
    policy = training_toy.ToyConfig(history=2, chunk=2).build(training_toy.SPEC)
    learner, accelerator, watch = (
        Learner(policy, BC()),
        Accelerator(cpu=True),
        Stopwatch(torch.device("cpu")),
    )
    watch.start()
    batches = [RobotBatch("", windows.batch(part)) for part in parts]
    if projected:
        numbers = projected_backward(
            learner,
            learner.objective,
            batches,
            accelerator,
            watch,
            bf16=False,
            clip=None,
            seed=5,
            tasks=tasks,
        )
    else:
        numbers = backward(
            learner, learner.objective, batches, accelerator, watch, bf16=False, clip=None
        )
    return numbers, {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


def test_a_batch_of_one_task_has_its_plain_gradient_and_micro_batches_change_nothing(
    data: Path,
) -> None:
    windows = Windows(EpisodeDataset(data), history=2, chunk=2)
    one = np.flatnonzero(windows.task_index == 0)[:6]
    plain, expected = _gradient(windows, [one], projected=False)
    numbers, found = _gradient(windows, [one], projected=True)
    assert numbers["loss"] == pytest.approx(plain["loss"])
    assert (numbers["tasks"], numbers["conflicts"]) == (1.0, 0.0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    both = np.concatenate([one[:4], np.flatnonzero(windows.task_index == 1)[:8]])[
        [0, 5, 1, 4, 2, 3, 6, 7, 8, 9, 10, 11]
    ]
    plain, _ = _gradient(windows, [both], projected=False)
    whole, expected = _gradient(windows, [both], projected=True)
    divided, found = _gradient(windows, np.split(both, 3), projected=True)
    assert whole["loss"] == pytest.approx(plain["loss"])
    assert (
        whole["conflicts"] == divided["conflicts"] == 1.0
    )  # the toy's tasks pull to opposite sides
    assert whole["grad_norm"] != pytest.approx(plain["grad_norm"], rel=1e-3)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def worded(root: Path) -> Path:
    """One task in two wordings, and one that nothing is noted of."""
    rng = np.random.default_rng(0)
    with DatasetWriter(root, training_toy.SPEC) as writer:
        for episode in range(9):
            text = (*training_toy.TASKS, "stay")[episode % 3]
            task = {} if text == "stay" else {"task": "go"}
            if episode == 0:
                task = {"task": "by hindsight"}
            writer.add_episode(
                Episode(
                    images={"front": np.zeros((4, 32, 32, 3), np.uint8)},
                    state=rng.normal(size=(4, 2)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (4, 2)).astype(np.float32),
                    rewards=np.zeros(4, np.float32),
                    success=np.zeros(4, bool),
                    terminated=False,
                    instruction=text,
                    info=task,
                )
            )
    return root


def test_a_task_is_what_the_dataset_calls_one(data: Path, tmp_path: Path) -> None:
    dataset = EpisodeDataset(worded(tmp_path / "worded"))
    names = task_names([dataset])
    assert names == dict.fromkeys(training_toy.TASKS, "go")
    assert task_names([EpisodeDataset(data)]) == {}
    windows = Windows(dataset, history=2, chunk=2)
    rows = np.arange(len(windows))
    _, expected = _gradient(windows, [rows[:8]], projected=False)  # both wordings
    numbers, found = _gradient(windows, [rows[:8]], projected=True, tasks=names)
    assert (numbers["tasks"], numbers["conflicts"]) == (1.0, 0.0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    assert _gradient(windows, [rows], projected=True, tasks=names)[0]["tasks"] == 2.0
    assert _gradient(windows, [rows], projected=True)[0]["tasks"] == 3.0

    # the loop reads the names of what it trains on and of what it replays
    changes = {
        "data": {
            "path": str(dataset.root),
            "validation_fraction": 0,
            "replay": [{"path": str(data), "weight": 0.25}],
        },
        "optim": {"lr": 1e-2, "warmup_steps": 0, "project_gradients": True},
        "steps": 1,
        "batch_size": 32,
        "validate_every": None,
    }
    result = train(toy_config(dataset.root, tmp_path / "run", **changes))
    assert result.metrics["tasks"] == 2.0


def test_synchronised_batch_norm_is_refused() -> None:
    learner = nn.Sequential(nn.SyncBatchNorm(3))
    check_projection(learner, 1)
    with pytest.raises(ConfigError, match=r"optim\.project_gradients: batch norm is synchronised"):
        check_projection(learner, 2)
    with pytest.raises(ValueError, match="set co_training: null"):
        toy_config(
            Path("d"), Path("o"), optim={"project_gradients": True}, co_training={"path": "pairs"}
        )


def test_two_processes_with_replay_and_projection_give_the_curve_of_one(
    data: Path, tmp_path: Path
) -> None:
    other = training_toy.write_dataset(tmp_path / "other", episodes=2, seed=4)
    changes = {
        "steps": 6, "grad_accumulation": 2, "validate_every": None, "save_every": None, "batch_size": 8,
        "data": {"path": str(data), "validation_fraction": 0.25, "replay": [{"path": str(other), "weight": 0.3}]},
        "optim": {"lr": 1e-2, "warmup_steps": 3, "project_gradients": True},
        "policy": {"history": 2, "chunk": 2},
        "precision": "no",  # on some CPUs `auto` is bf16, whose sums differ by their order
    }  # fmt: skip
    run = subprocess.run(
        [
            sys.executable,
            str(HELPERS / "two_processes.py"),
            str(data),
            str(tmp_path),
            repr(changes),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HELPERS}:{HELPERS.parents[1]}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 x cpu" in run.stdout
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [line["step"] for line in two] == list(range(1, 7))
    for key in ("loss", "grad_norm", "conflicts", "tasks"):
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], rel=1e-4)
