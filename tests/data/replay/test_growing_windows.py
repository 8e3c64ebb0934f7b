"""Episodes in memory give the batches of the same episodes on disk, and make room for new ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vla.data import DatasetWriter, EpisodeDataset, Windows
from vla.data.episode import Episode
from vla.data.errors import DataError
from vla.data.replay.growing_windows import GrowingWindows
from vla.types import Spec

SPEC = Spec({"front": (16, 20)}, ("x", "y"), ("dx",), (-4.0,), (4.0,), 10.0)


def played(number: int, steps: int, **extras) -> Episode:
    rng = np.random.default_rng(number)
    return Episode(
        images={"front": rng.integers(0, 256, (steps, 16, 20, 3), dtype=np.uint8)},
        state=rng.normal(size=(steps, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 1)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        success=np.arange(steps) == steps - 1 if number % 2 else np.zeros(steps, bool),
        terminated=bool(number % 2),
        instruction=("open", "close", "push")[number % 3],
        info={"seed": number},
        extras={"decision": np.arange(steps) % 2} | extras,
    )


EPISODES = [played(number, steps) for number, steps in enumerate((5, 3, 8, 4, 6))]
SHAPE = {"history": 3, "chunk": 2, "next_step": 2, "discount": 0.9, "extras": ["decision"]}


def assert_same(first, second) -> None:
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one), field.name
        elif isinstance(one, torch.Tensor):
            assert torch.equal(one, other), field.name
        elif field.name != "task_index":
            assert one == other


def test_batches_are_those_of_the_dataset_on_disk(tmp_path) -> None:
    with DatasetWriter(tmp_path / "data", SPEC) as writer:
        writer.add_episodes(EPISODES)
    on_disk = Windows(EpisodeDataset(tmp_path / "data"), **SHAPE)
    growing = GrowingWindows(SPEC, **SHAPE)
    growing.append(EPISODES[:2])
    growing.append(EPISODES[2:])
    assert len(growing) == len(on_disk) == 26
    every = np.arange(26)
    assert_same(on_disk.batch(every), growing.batch(every))


def test_the_oldest_whole_episodes_go_first() -> None:
    growing = GrowingWindows(SPEC, **SHAPE, max_frames=20)
    for episode in EPISODES:
        growing.append([episode])
    assert [len(episode) for episode in growing.kept] == [8, 4, 6]
    fresh = GrowingWindows(SPEC, **SHAPE)
    fresh.append(EPISODES[2:])
    assert_same(fresh.batch(np.arange(18)), growing.batch(np.arange(18)))
    with pytest.raises(DataError, match="has 21 steps, of which 20 are kept"):
        growing.append([played(9, 21)])


def test_a_ring_that_is_gone_through_many_times_keeps_what_it_should() -> None:
    growing = GrowingWindows(SPEC, **SHAPE, max_frames=30)
    for number in range(60):
        growing.append([played(number, 3 + number % 7)])
    kept = [played(number, 3 + number % 7) for number in range(60)][-len(growing.kept) :]
    fresh = GrowingWindows(SPEC, **SHAPE)
    fresh.append(kept)
    assert_same(fresh.batch(np.arange(len(fresh))), growing.batch(np.arange(len(growing))))


def test_labels_that_hold_for_one_action_mask_the_rest_of_the_chunk(tmp_path) -> None:
    labelled = [played(1, 5, valid_actions=np.array([1, 2, 1, 2, 2]))]
    growing = GrowingWindows(SPEC, history=1, chunk=2)
    growing.append(labelled)
    assert growing.batch(np.arange(5)).action_mask[:, 0].tolist() == [
        [True, False],
        [True, True],
        [True, False],
        [True, True],
        [True, False],  # behind the end
    ]
    with DatasetWriter(tmp_path / "data", SPEC) as writer:
        writer.add_episodes(labelled)
    on_disk = Windows(EpisodeDataset(tmp_path / "data"), history=1, chunk=2)
    assert torch.equal(
        on_disk.batch(np.arange(5)).action_mask, growing.batch(np.arange(5)).action_mask
    )


def test_columns_of_a_round_come_with_the_batches_and_are_forgotten() -> None:
    growing = GrowingWindows(SPEC, history=2, chunk=1)
    growing.append(EPISODES[:1])
    growing.columns = {"advantage": np.arange(5, dtype=np.float32)}
    assert growing.batch(np.array([3])).extras["advantage"].tolist() == [[2.0, 3.0]]
    growing.append(EPISODES[1:2])
    assert growing.batch(np.array([3])).extras == {}


def test_frames_are_kept_at_the_size_that_the_policy_sees() -> None:
    growing = GrowingWindows(SPEC, history=1, chunk=1, image_sizes={"front": (8, 10)})
    growing.append(EPISODES)
    assert growing.batch(np.array([0])).images["front"].shape == (1, 1, 8, 10, 3)


def test_an_absent_column_is_named() -> None:
    growing = GrowingWindows(SPEC, history=1, chunk=1, extras=["cost"])
    with pytest.raises(DataError, match="no extra column 'cost'; it has: decision"):
        growing.append(EPISODES)
