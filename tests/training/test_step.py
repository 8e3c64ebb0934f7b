"""The gradient does not depend on how a batch was divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import training_toy
from accelerate import Accelerator
from torch import Tensor

from vla.data import EpisodeDataset, Windows
from vla.data.loading.multi_robot import RobotBatch
from vla.training.metrics import Stopwatch
from vla.training.objective import Learner
from vla.training.objectives.bc import BC
from vla.training.step import backward


def _gradient(
    windows: Windows, parts: list[np.ndarray]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    torch.manual_seed(0)
    policy = training_toy.ToyConfig(history=4, chunk=3).build(training_toy.SPEC)
    learner, accelerator = Learner(policy, BC()), Accelerator(cpu=True)
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    batches = [RobotBatch("", windows.batch(part)) for part in parts]
    numbers = backward(
        learner, learner.objective, batches, accelerator, watch, bf16=False, clip=None
    )
    return numbers, {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


def test_micro_batches_of_uneven_length_add_up(data: Path) -> None:
    windows = Windows(EpisodeDataset(data), history=4, chunk=3)
    rows = np.array(
        [0, 0, 0, 5, 6, 7, 11, 23]
    )  # the first windows of an episode have one valid step of four
    valid = windows.batch(rows).mask.sum(1).tolist()
    assert valid[:2] == [1, 1]
    assert valid[-2:] == [4, 4]
    whole, expected = _gradient(windows, [rows])
    divided, found = _gradient(windows, np.split(rows, 4))
    assert divided["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert divided["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)
    # What a mean of means would give is far from it.
    naive = np.mean([_gradient(windows, [part])[0]["loss"] for part in np.split(rows, 4)])
    assert abs(naive - whole["loss"]) > 1e-3


def test_clip_bounds_the_norm_and_reports_it_before(data: Path) -> None:
    windows = Windows(EpisodeDataset(data), history=4, chunk=3)
    policy = training_toy.ToyConfig(history=4, chunk=3).build(training_toy.SPEC)
    learner, watch = Learner(policy, BC()), Stopwatch(torch.device("cpu"))
    watch.start()
    batch = RobotBatch("", windows.batch(np.arange(8)))
    numbers = backward(
        learner, learner.objective, [batch], Accelerator(cpu=True), watch, bf16=False, clip=1e-3
    )
    norm = (
        torch.stack([p.grad.norm() for p in learner.parameters() if p.grad is not None])
        .norm()
        .item()
    )
    assert numbers["grad_norm"] > 1e-2
    assert norm == pytest.approx(1e-3, rel=1e-2)
    assert {"seconds/forward", "seconds/backward", "seconds/step"} == set(watch.seconds())
