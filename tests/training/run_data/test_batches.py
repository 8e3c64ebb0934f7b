from __future__ import annotations

from pathlib import Path

import pytest
import torch
import training_toy

from vla.config import ConfigError
from vla.data import EpisodeDataset, Windows
from vla.data.loading.multi_robot import RobotWindows
from vla.training.objectives.bc import BC
from vla.training.run_data.batches import step_batches
from vla.training.run_data.drawing import BatchPlan, build_order
from vla.training.run_data.windows import split_episodes
from vla.training.seeding import seed_of


def test_split_is_deterministic_and_even_over_tasks() -> None:
    tasks = [0] * 10 + [1] * 10 + [2] * 10
    training, held_out = split_episodes(tasks, 0.2, seed=3)
    assert sorted(training + held_out) == list(range(30))
    assert [sum(tasks[e] == task for e in held_out) for task in range(3)] == [2, 2, 2]
    assert split_episodes(tasks, 0.2, seed=3) == (training, held_out)
    assert split_episodes(tasks, 0.2, seed=4)[1] != held_out


def test_split_of_nothing_and_of_too_little() -> None:
    assert split_episodes([0, 0], 0.0, seed=0) == ([0, 1], [])
    assert len(split_episodes([0] * 50, 0.001, seed=0)[1]) == 1
    with pytest.raises(ConfigError, match=r"data\.validation_fraction: 0\.05 holds out 1 of 1"):
        split_episodes([0], 0.05, seed=0)


def test_batch_that_does_not_divide_is_named(data: Path, tmp_path: Path) -> None:
    windows = Windows(EpisodeDataset(data), history=1, chunk=1)
    config = training_toy.toy_config(data, tmp_path)
    plan = BatchPlan(batch_size=12, micro_batches=2, seed=0, world_size=4)
    with pytest.raises(ConfigError, match=r"batch_size: 12 .* 4 processes x 2 .* multiple of 8"):
        build_order(config.data, plan, windows, BC())


def test_task_balance_reaches_the_sampler(data: Path, tmp_path: Path) -> None:
    windows = Windows(
        EpisodeDataset(data), history=1, chunk=1, episodes=[0, 2, 4, 6, 1]
    )  # four of one task, one of the other
    config = training_toy.toy_config(data, tmp_path)
    balanced = config.data.model_copy(update={"task_balance": 0.0})
    plan = BatchPlan(batch_size=400, micro_batches=1, seed=0)
    drawn = windows.task_index[build_order(balanced, plan, windows, BC()).indices(0)]
    assert 160 < (drawn == 1).sum() < 240


def test_seeds_differ_by_each_part() -> None:
    seeds = {seed_of(a, b, c) for a in range(4) for b in range(4) for c in range(4)}
    assert len(seeds) == 64


def test_balanced_and_shortened_batches_are_the_same_from_any_step(
    data: Path, tmp_path: Path
) -> None:
    windows = Windows(EpisodeDataset(data), history=4, chunk=1)
    config = training_toy.toy_config(data, tmp_path)
    balanced = config.data.model_copy(update={"episode_balance": True})
    plan = BatchPlan(batch_size=12, micro_batches=2, seed=0)
    order = build_order(balanced, plan, windows, BC())
    of_one = RobotWindows({"": windows})

    def batches(first: int) -> dict[int, torch.Tensor]:
        steps = range(first, 6)
        options = {"micro_batches": 2, "device": torch.device("cpu"), "variable_history": True}
        return {
            step: torch.cat([batch.mask for _, batch in parts])
            for step, parts in step_batches(of_one, order, steps, **options)
        }

    whole, resumed = batches(1), batches(4)
    assert all(torch.equal(whole[step], resumed[step]) for step in (4, 5))
    assert (
        len({tuple(mask.sum(1).tolist()) for mask in whole.values()}) > 1
    )  # each step draws its own
