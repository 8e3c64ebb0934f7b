from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.data import DatasetWriter, EpisodeDataset, Windows
from vla.data.loading import row_copy
from vla.types import Batch

GRIPPER = 1  # of the action
LENGTHS = [5, 1, 3, 8, 2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, episode, spec) -> EpisodeDataset:
    root = tmp_path_factory.mktemp("windows") / "dataset"
    with DatasetWriter(root, spec) as writer:
        for number, length in enumerate(LENGTHS):
            writer.add_episode(episode(number, length))
    return EpisodeDataset(root)


@functools.cache
def loaded(dataset: EpisodeDataset, episode: int):
    return dataset.episode(episode)


def naive_window(
    dataset: EpisodeDataset,
    episode: int,
    t: int,
    history: int,
    chunk: int,
    next_step: bool,
    discount: float,
):
    """One window by the definition, step by step."""
    e = loaded(dataset, episode)
    L = len(e)
    returns = [
        sum(discount ** (k - s) * float(e.rewards[k]) for k in range(s, L)) for s in range(L)
    ]
    grip = e.actions[:, GRIPPER] > 0.5 * (
        dataset.spec.action_low[GRIPPER] + dataset.spec.action_high[GRIPPER]
    )
    steps = []
    for s in range(t - history + 1, t + (2 if next_step else 1)):
        real, near = 0 <= s < L, min(max(s, 0), L - 1)
        steps.append(
            {
                "images": {camera: e.frames(camera)[near] for camera in e.images},
                "state": e.state[near],
                "keyframe": e.state[
                    next(k for k in range(near, L) if k == L - 1 or grip[k + 1] != grip[k])
                ],
                "actions": [e.actions[min(near + k, L - 1)] for k in range(chunk)],
                "action_mask": [real and near + k < L for k in range(chunk)],
                "rewards": e.rewards[near] if real else 0.0,
                "terminals": real and e.terminated and near == L - 1,
                "returns_to_go": returns[near] if real else 0.0,
                "timesteps": near,
                "mask": real,
            }
        )
    return steps


def assert_window(batch: Batch, b: int, steps: list[dict]) -> None:
    for name in (
        "state",
        "keyframe",
        "actions",
        "action_mask",
        "rewards",
        "terminals",
        "timesteps",
        "mask",
    ):
        np.testing.assert_array_equal(
            getattr(batch, name)[b].numpy(), np.array([s[name] for s in steps]), err_msg=name
        )
    np.testing.assert_allclose(
        batch.returns_to_go[b].numpy(), [s["returns_to_go"] for s in steps], rtol=1e-5, atol=1e-6
    )
    for camera, images in batch.images.items():
        np.testing.assert_array_equal(
            images[b].numpy(), np.stack([s["images"][camera] for s in steps])
        )


@settings(max_examples=30, deadline=None)
@given(
    history=st.integers(1, 6),
    chunk=st.integers(1, 5),
    next_step=st.booleans(),
    discount=st.sampled_from([0.0, 0.9, 1.0]),
    episodes=st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, unique=True),
    data=st.data(),
)
def test_a_batch_is_what_the_definition_says(
    dataset, history, chunk, next_step, discount, episodes, data
):
    windows = Windows(
        dataset,
        history=history,
        chunk=chunk,
        next_step=next_step,
        discount=discount,
        episodes=episodes,
    )
    places = [(e, t) for e in episodes for t in range(LENGTHS[e])]
    assert len(windows) == len(places)
    indices = data.draw(st.lists(st.integers(0, len(places) - 1), min_size=1, max_size=8))
    batch = windows.batch(np.array(indices))
    assert batch.mask.shape == (len(indices), history + next_step)
    for b, index in enumerate(indices):
        episode, t = places[index]
        assert_window(
            batch, b, naive_window(dataset, episode, t, history, chunk, next_step, discount)
        )
        assert batch.instruction[b] == loaded(dataset, episode).instruction
        assert dataset.instructions[int(batch.task_index[b])] == batch.instruction[b]


def test_types_and_shapes_are_those_of_a_fake_batch(dataset):
    windows = Windows(dataset, history=3, chunk=2, next_step=True)
    batch, fake = windows.batch(np.array([0, 5, 7])), dataset.spec.fake_batch(3, 4, 2)
    for name, expected in vars(fake).items():
        found = getattr(batch, name)
        if isinstance(expected, torch.Tensor):
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    for camera, images in fake.images.items():
        assert (batch.images[camera].dtype, batch.images[camera].shape) == (
            torch.uint8,
            images.shape,
        )
    batch.observation().check(dataset.spec)


def test_arrays_of_all_frames(dataset):
    windows = Windows(dataset, history=1, chunk=1, episodes=[3, 0])
    first, second = loaded(dataset, 3), loaded(dataset, 0)
    np.testing.assert_array_equal(windows.actions, np.concatenate([first.actions, second.actions]))
    np.testing.assert_array_equal(windows.states, np.concatenate([first.state, second.state]))
    assert windows.terminals.tolist() == [False] * 7 + [True] + [False] * 5
    assert windows.task_index.tolist() == [1] * 8 + [0] * 5
    assert windows.instructions == dataset.instructions


def test_only_the_cameras_asked_for_are_loaded(dataset):
    windows = Windows(dataset, history=1, chunk=1, cameras=["wrist"])
    assert set(windows.batch(np.array([0])).images) == {"wrist"}


def equal(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(one.images[camera], other.images[camera]) for camera in one.images
    ) and all(
        torch.equal(value, getattr(other, name))
        for name, value in vars(one).items()
        if isinstance(value, torch.Tensor)
    )


@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_copy_the_same(dataset, monkeypatch, threads):
    monkeypatch.setattr(row_copy, "_LEAST_BYTES", 1)
    one, many = (Windows(dataset, history=3, chunk=2, threads=n) for n in (1, threads))
    for indices in (np.arange(19), np.array([4]), np.array([18, 0, 7]), np.zeros(0, np.int64)):
        assert equal(one.batch(indices), many.batch(indices))
    with pytest.raises(ValueError, match="threads is 0"):
        Windows(dataset, history=1, chunk=1, threads=0)


def test_memory_is_used_again_when_nobody_holds_it(dataset):
    windows = Windows(dataset, history=3, chunk=2, cameras=["front"])
    expected = [windows.batch(np.arange(n, n + 4)).images["front"].clone() for n in range(15)]
    places = set()
    for n in range(15):
        batch = windows.batch(np.arange(n, n + 4))
        assert torch.equal(batch.images["front"], expected[n])
        places.add(batch.images["front"].data_ptr())
    assert len(places) == 2  # the one that is held, and the one that is being made

    held = {
        "batch": windows.batch(np.arange(4)),
        "one image": windows.batch(np.arange(1, 5)).images["front"][2, 1],
        "an array": windows.batch(np.arange(2, 6)).images["front"].numpy()[1:],
        "steps": windows.batch(np.arange(3, 7)).steps(1, None),
    }
    for n in range(15):
        windows.batch(np.arange(n, n + 4))
    assert torch.equal(held["batch"].images["front"], expected[0])
    assert torch.equal(held["one image"], expected[1][2, 1])
    np.testing.assert_array_equal(held["an array"], expected[2][1:].numpy())
    assert torch.equal(held["steps"].images["front"], expected[3][:, 1:])


def test_batches_made_by_several_threads_at_once(dataset):
    windows = Windows(dataset, history=3, chunk=2)
    places = [np.arange(n % 10, n % 10 + 1 + n % 7) for n in range(60)]
    expected = [windows.batch(indices) for indices in places]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda n: equal(windows.batch(places[n]), expected[n]), range(60)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_batches_are_the_same(dataset):
    pinned, plain = (Windows(dataset, history=3, chunk=2, pin_memory=pin) for pin in (True, False))
    for n in range(15):
        batch = pinned.batch(np.arange(n, n + 4))
        assert batch.images["front"].is_pinned()
        assert batch.pin_memory().images["front"].data_ptr() == batch.images["front"].data_ptr()
        there = batch.to("cuda", non_blocking=True)
        del batch
        assert equal(there.to("cpu"), plain.batch(np.arange(n, n + 4)))


def test_a_window_that_does_not_exist(dataset):
    windows = Windows(dataset, history=1, chunk=1)
    with pytest.raises(IndexError, match="0 to 19; there are 0 to 18"):
        windows.batch(np.array([0, 19]))
    with pytest.raises(ValueError, match="history is 0"):
        Windows(dataset, history=0, chunk=1)
