from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.data import (
    EpisodeDataset,
    Windows,
    WindowSampler,
    episode_balanced_weights,
    shorten_history,
    solved_share_weights,
    task_balanced_weights,
)
from vla.types import Spec


@given(
    num_windows=st.integers(1, 50),
    local=st.integers(1, 8),
    world=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    step=st.integers(0, 10**6),
    weighted=st.booleans(),
)
def test_ranks_together_are_the_batch_of_one_process(
    num_windows, local, world, seed, step, weighted
):
    weights = np.arange(1, num_windows + 1) if weighted else None
    batch = local * world
    whole = WindowSampler(num_windows, batch_size=batch, seed=seed, weights=weights).indices(step)
    joined = np.empty(batch, np.int64)
    for rank in range(world):
        sampler = WindowSampler(
            num_windows, batch_size=batch, seed=seed, rank=rank, world_size=world, weights=weights
        )
        joined[rank::world] = sampler.indices(step)
    np.testing.assert_array_equal(joined, whole)
    assert whole.dtype == np.int64
    assert ((whole >= 0) & (whole < num_windows)).all()


def test_order_depends_on_seed_and_step_only():
    sampler, other = (WindowSampler(37, batch_size=8, seed=3) for _ in range(2))
    forwards = [sampler.indices(step) for step in range(40)]
    for step in reversed(range(40)):
        np.testing.assert_array_equal(other.indices(step), forwards[step])
    assert not np.array_equal(WindowSampler(37, batch_size=8, seed=4).indices(0), forwards[0])


@pytest.mark.parametrize(("num_windows", "batch_size"), [(12, 5), (3, 8), (1, 1)])
def test_every_epoch_is_a_permutation(num_windows, batch_size):
    sampler = WindowSampler(num_windows, batch_size=batch_size, seed=0)
    row = np.concatenate([sampler.indices(step) for step in range(20)])
    epochs = row[: len(row) // num_windows * num_windows].reshape(-1, num_windows)
    assert (np.sort(epochs, axis=1) == np.arange(num_windows)).all()
    if num_windows == 12:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_weights_are_the_frequencies():
    weights = np.array([0.0, 1.0, 3.0, 0.0])
    sampler = WindowSampler(4, batch_size=1000, seed=0, weights=weights)
    counts = np.bincount(np.concatenate([sampler.indices(s) for s in range(20)]), minlength=4)
    assert counts[0] == counts[3] == 0
    assert counts[2] / counts.sum() == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_windows": 0}, "at least one window"),
        ({"batch_size": 6, "world_size": 4}, "multiple of world_size 4"),
        ({"rank": 2, "world_size": 2}, "rank is 2; expected 0 to 1"),
        ({"seed": -1}, "seed is -1"),
        ({"weights": np.ones(3)}, r"shape \(3,\); expected \(10,\)"),
        ({"weights": np.zeros(10)}, "not all zero"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {"num_windows": 10, "batch_size": 8, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        WindowSampler(arguments.pop("num_windows"), **arguments)
    with pytest.raises(ValueError, match="step is -1"):
        WindowSampler(10, batch_size=2, seed=0).indices(-1)


def test_task_balanced_weights(write):
    windows = Windows(EpisodeDataset(write([2, 6, 1])), history=1, chunk=1)
    balanced = task_balanced_weights(windows)
    assert [balanced[windows.task_index == task].sum() for task in (0, 1)] == pytest.approx(
        [0.5, 0.5]
    )
    np.testing.assert_allclose(task_balanced_weights(windows, temperature=1.0), np.full(9, 1 / 9))
    halfway = task_balanced_weights(windows, temperature=0.5)
    ratio = halfway[windows.task_index == 1].sum() / halfway[windows.task_index == 0].sum()
    assert ratio == pytest.approx(np.sqrt(6 / 3))


class Lengths:
    """What the weights look at of windows."""

    lengths = np.array([2, 8, 5])
    task_index = np.repeat([0, 0, 1], lengths)

    def __len__(self) -> int:
        return 15


def test_episodes_count_the_same_however_long():
    windows = Lengths()
    weights = episode_balanced_weights(windows)
    sums = [weights[:2].sum(), weights[2:10].sum(), weights[10:].sum()]
    np.testing.assert_allclose(sums, [1 / 3] * 3)
    balanced = episode_balanced_weights(windows, task_balanced_weights(windows, temperature=0.0))
    np.testing.assert_allclose(
        [balanced[:2].sum(), balanced[2:10].sum(), balanced[10:].sum()], [0.25, 0.25, 0.5]
    )


def test_solved_episodes_get_their_share_of_every_task():
    windows = Lengths()
    windows.success = np.repeat([True, False, True], windows.lengths)
    weights = solved_share_weights(windows, 0.75)
    sums = [weights[:2].sum(), weights[2:10].sum(), weights[10:].sum()]
    np.testing.assert_allclose(
        sums, [0.75 * 10 / 15, 0.25 * 10 / 15, 5 / 15]
    )  # the third task has no failures
    balanced = solved_share_weights(windows, 0.75, episode_balanced_weights(windows))
    sums = [balanced[:2].sum(), balanced[2:10].sum(), balanced[10:].sum()]
    np.testing.assert_allclose(sums, [0.75 * 2 / 3, 0.25 * 2 / 3, 1 / 3])


def test_history_is_shortened_from_its_oldest_end():
    spec = Spec({}, ("s",), ("a",), (-1.0,), (1.0,), 10)
    batch = spec.fake_batch(400, 4, 2)
    batch.mask[:200, 0] = False
    batch.action_mask[:200, 0] = False
    short = shorten_history(batch, np.random.default_rng(0))
    kept = short.mask.sum(1)
    assert short.mask[:, -1].all()
    assert (short.mask[:, 1:] >= short.mask[:, :-1]).all()  # what is hidden is the oldest
    assert not (short.mask & ~batch.mask).any()
    assert not (short.action_mask & ~short.mask[..., None]).any()
    counts = np.bincount(kept[200:].numpy(), minlength=5)[1:]
    assert counts.min() > 30
    again = shorten_history(batch, np.random.default_rng(0))
    assert (again.mask == short.mask).all()


def test_the_current_step_is_kept_beside_the_next_one():
    batch = Spec({}, ("s",), ("a",), (-1.0,), (1.0,), 10).fake_batch(300, 5, 2)
    batch.mask[::2, -1] = False  # the episode ends with the current step
    short = shorten_history(batch, np.random.default_rng(0), next_step=True)
    assert short.mask[:, -2].all()
    assert (short.mask[:, -1] == batch.mask[:, -1]).all()
    assert sorted(set(short.mask[:, :-1].sum(1).tolist())) == [1, 2, 3, 4]
    for values in (short.rewards, short.returns_to_go, short.success):
        assert not values[:, :-1][~short.mask[:, :-1]].any()  # as at padded steps
