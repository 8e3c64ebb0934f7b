from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vla.data import DataError, EpisodeDataset, Windows, WindowSampler
from vla.data.loading.interleaved_sampler import InterleavedSampler
from vla.data.loading.iterable_dataset import to_iterable_dataset
from vla.data.loading.streaming.stream_frames import SLOTS
from vla.data.loading.streaming.stream_order import BlockNumber, StreamOrder
from vla.data.loading.streaming.streamed_windows import StreamedWindows
from vla.types import Batch

LENGTHS = np.array([3, 8, 1, 20, 5, 5, 11, 2])
FRAME = 6 * 8 * 3 + 4 * 4 * 3  # bytes of the two cameras of conftest


def order(**changes: object) -> StreamOrder:
    values: dict[str, object] = {
        "batch_size": 4,
        "seed": 3,
        "frames_per_block": 24,
        "before": 2,
        "after": 1,
    }
    return StreamOrder(LENGTHS, **(values | changes))  # type: ignore[arg-type]


def gib(frames: float) -> float:
    """Memory whose blocks hold `frames` frames."""
    return (frames * SLOTS * FRAME + 64) / 2**30


def assert_same(found: Batch, expected: Batch) -> None:
    for field in dataclasses.fields(Batch):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "images":
            assert a.keys() == b.keys()
            assert all(torch.equal(a[camera], b[camera]) for camera in a)
        else:
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


# --- the order --------------------------------------------------------------------------------------------


def test_an_epoch_has_every_window_once_and_epochs_differ() -> None:
    stream = order(batch_size=5)
    epochs = np.concatenate([stream.indices(step) for step in range(22)]).reshape(2, 55)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(55))
    assert (epochs[0] != epochs[1]).any()
    assert (np.diff(epochs[0]) != 1).mean() > 0.5


def test_steps_can_be_asked_for_in_any_order() -> None:
    stream, again = order(), order()
    forward = [stream.indices(step) for step in range(40)]
    for step in reversed(range(40)):
        np.testing.assert_array_equal(again.indices(step), forward[step])
    assert any((order(seed=4).indices(step) != forward[step]).any() for step in range(5))


def test_blocks_hold_the_frames_of_their_windows_and_fit() -> None:
    stream, ends = order(), np.cumsum(LENGTHS)
    assert stream.num_blocks(0) > 2
    for part in range(stream.num_blocks(0)):
        block = stream.block(BlockNumber(0, part))
        assert block.num_rows == (block.stops - block.starts).sum() <= 24
        covered = set(
            np.concatenate(
                [np.arange(a, b) for a, b in zip(block.starts, block.stops, strict=True)]
            ).tolist()
        )
        needed = set()
        for window in block.windows:
            episode = np.searchsorted(ends, window, side="right")
            needed |= set(
                range(
                    max(window - 2, ends[episode] - LENGTHS[episode]),
                    min(window + 2, ends[episode]),
                )
            )
        assert covered == needed
    assert stream.after(BlockNumber(0, stream.num_blocks(0) - 1)) == BlockNumber(1, 0)
    with pytest.raises(IndexError, match="epoch 0 has 0 to"):
        stream.block(BlockNumber(0, 99))


def test_two_processes_share_no_window_and_at_most_the_frames_of_one_episode() -> None:
    ranks = [order(rank=rank, world_size=2) for rank in range(2)]
    drawn, frames = [], []
    for stream in ranks:
        blocks = [stream.block(BlockNumber(0, part)) for part in range(stream.num_blocks(0))]
        drawn.append(np.concatenate([block.windows for block in blocks]))
        frames.append(
            {f for b in blocks for a, z in zip(b.starts, b.stops, strict=True) for f in range(a, z)}
        )
    assert len(drawn[0]) == len(drawn[1]) == 27
    assert len(np.unique(np.concatenate(drawn))) == 54
    shared = np.searchsorted(np.cumsum(LENGTHS), sorted(frames[0] & frames[1]), side="right")
    assert len(set(shared.tolist())) <= 1
    assert sum(map(len, frames)) <= 55 + 4
    for step in range(10):
        assert (
            not set(ranks[0].indices(step)) & set(ranks[1].indices(step))
            or step * 2 // 27 != (step * 2 + 1) // 27
        )


def test_weights_are_kept_and_what_has_none_is_not_read() -> None:
    weights = np.random.default_rng(0).uniform(0.2, 2.0, 55)
    weights[11:32] = 0
    stream = order(weights=weights)
    epochs = 200
    steps = epochs * stream.drawn_per_epoch // 4
    counts = np.bincount(
        np.concatenate([stream.indices(step) for step in range(steps)]), minlength=55
    )
    assert counts[11:32].sum() == 0
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.003)
    blocks = [stream.block(BlockNumber(0, part)) for part in range(stream.num_blocks(0))]
    assert all(
        stop <= 13 or start >= 30
        for b in blocks
        for start, stop in zip(b.starts, b.stops, strict=True)
    )


def test_equal_weights_are_as_none() -> None:
    stream, weighted = order(), order(weights=np.full(55, 0.1))
    assert weighted.drawn_per_epoch == 55
    np.testing.assert_array_equal(
        np.sort(
            np.concatenate(
                [weighted.block(BlockNumber(1, p)).windows for p in range(weighted.num_blocks(1))]
            )
        ),
        np.arange(55),
    )
    assert stream.num_blocks(1) == weighted.num_blocks(1)


def test_too_little_room_and_too_few_windows_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"room for 8 frames, windows of 4 frames need at least 9.*stream_memory_gb"
    ):
        order(frames_per_block=8)
    with pytest.raises(DataError, match="55 windows cannot be shared among 64 processes"):
        order(batch_size=64, world_size=64)


def test_processes_draw_several_datasets_from_parts_of_their_own_in_their_shares() -> None:
    lengths, samplers = (LENGTHS, np.array([9, 4, 30])), []
    for rank in range(2):
        parts: list[WindowSampler | StreamOrder] = [
            StreamOrder(
                n, batch_size=2, seed=s, frames_per_block=24, before=2, rank=rank, world_size=2
            )
            for s, n in enumerate(lengths)
        ]
        samplers.append(
            InterleavedSampler(
                parts, [Fraction(1, 4)], batch_size=16, seed=0, rank=rank, world_size=2
            )
        )
    drawn = [np.concatenate([sampler.indices(step) for step in range(4)]) for sampler in samplers]
    assert [len(rows) for rows in drawn] == [32, 32]
    assert all((rows >= 55).sum() == 8 for rows in drawn)
    first = [set(rows[rows < 55][:20].tolist()) for rows in drawn]
    assert not first[0] & first[1]
    assert samplers[0].drawn(4) == [48, 16]


# --- the frames -------------------------------------------------------------------------------------------


def test_streamed_windows_are_those_in_memory(write: Callable[..., Path]) -> None:
    dataset = EpisodeDataset(write(LENGTHS.tolist()))
    options: dict[str, int] = {"history": 3, "chunk": 2, "next_step": 1}
    whole = Windows(dataset, **options, episodes=[6, 1, 3, 2, 5])
    streamed = StreamedWindows(dataset, **options, episodes=[6, 1, 3, 2, 5], memory_gb=gib(24))
    stream = streamed.order(batch_size=6, seed=0)
    assert stream.num_blocks(0) >= 2
    for step in range(20):
        rows = stream.indices(step)
        assert_same(streamed.batch(rows), whole.batch(rows))
    for name in (
        "actions",
        "states",
        "rewards",
        "returns",
        "terminals",
        "success",
        "task_index",
        "lengths",
    ):
        np.testing.assert_array_equal(getattr(streamed, name), getattr(whole, name))
    assert len(streamed) == len(whole)
    streamed.close()


def test_windows_out_of_order_are_decoded_on_demand(write: Callable[..., Path]) -> None:
    dataset = EpisodeDataset(write(LENGTHS.tolist()))
    whole = Windows(dataset, history=2, chunk=1, cameras=["wrist"])
    streamed = StreamedWindows(dataset, history=2, chunk=1, cameras=["wrist"], memory_gb=gib(24))
    rows = np.array([54, 0, 17, 17, 3])
    assert_same(streamed.batch(rows), whole.batch(rows))
    stream = streamed.order(batch_size=4, seed=0)
    mixed = np.concatenate([stream.indices(0), rows])
    assert_same(streamed.batch(mixed), whole.batch(mixed))
    streamed.close()


def test_each_epoch_decodes_each_frame_about_once(write: Callable[..., Path]) -> None:
    dataset = EpisodeDataset(write([10] * 10))
    streamed = StreamedWindows(dataset, history=2, chunk=1, memory_gb=gib(30))
    stream = streamed.order(batch_size=5, seed=0)
    for step in range(20):
        streamed.batch(stream.indices(step))
    blocks = stream.num_blocks(0)
    assert blocks >= 4
    assert (
        100 <= streamed.decoded <= 100 + blocks + 2 * 32
    )  # margins at seams, and two blocks read ahead
    streamed.close()


def test_data_that_fit_into_one_block_are_decoded_once(write: Callable[..., Path]) -> None:
    dataset = EpisodeDataset(write([10] * 10))
    whole = Windows(dataset, history=2, chunk=1)
    streamed = StreamedWindows(dataset, history=2, chunk=1, memory_gb=gib(110))
    stream = streamed.order(batch_size=5, seed=0)
    for step in range(100):  # five epochs
        rows = stream.indices(step)
        assert_same(streamed.batch(rows), whole.batch(rows))
    assert streamed.decoded == 100
    streamed.close()


def test_data_of_two_blocks_are_decoded_in_part(write: Callable[..., Path]) -> None:
    dataset = EpisodeDataset(write([10] * 10))
    whole = Windows(dataset, history=1, chunk=1)
    streamed = StreamedWindows(dataset, history=1, chunk=1, memory_gb=gib(60))
    stream = streamed.order(batch_size=5, seed=0)
    for step in range(100):
        rows = stream.indices(step)
        assert_same(streamed.batch(rows), whole.batch(rows))
    assert 100 < streamed.decoded < 450
    streamed.close()


def test_a_resumed_stream_reads_only_what_comes(write: Callable[..., Path]) -> None:
    dataset = EpisodeDataset(write([10] * 10))
    first, second = (
        StreamedWindows(dataset, history=2, chunk=1, memory_gb=gib(30)) for _ in range(2)
    )
    one, two = (windows.order(batch_size=5, seed=0) for windows in (first, second))
    batches = [first.batch(one.indices(step)) for step in range(30)]
    for step in range(27, 30):
        assert_same(second.batch(two.indices(step)), batches[step])
    second.close()
    assert second.decoded == 0
    assert first.decoded > 100
    first.close()


def test_a_damaged_image_is_reported_when_its_block_comes(write: Callable[..., Path]) -> None:
    root = write([6, 6])
    file = next((root / "data").rglob("*.parquet"))
    data = file.read_bytes()
    file.write_bytes(data.replace(b"IDAT", b"IDAX"))
    streamed = StreamedWindows(EpisodeDataset(root), history=1, chunk=1, memory_gb=gib(30))
    stream = streamed.order(batch_size=12, seed=0)
    with pytest.raises(DataError, match=r"frame \d+.*camera|parquet|restore"):
        streamed.batch(stream.indices(0))
    streamed.close()


def test_memory_too_small_names_its_key(write: Callable[..., Path]) -> None:
    streamed = StreamedWindows(EpisodeDataset(write([6])), history=2, chunk=1, memory_gb=gib(2))
    with pytest.raises(DataError, match="stream_memory_gb"):
        streamed.order(batch_size=1, seed=0)
    with pytest.raises(ValueError, match="memory_gb is 0"):
        StreamedWindows(streamed.dataset, history=1, chunk=1, memory_gb=0)


# --- for other training loops -----------------------------------------------------------------------------


def test_an_iterable_dataset_goes_on_where_it_was(write: Callable[..., Path]) -> None:
    dataset = EpisodeDataset(write([10] * 6))

    def opened() -> tuple[StreamedWindows, Any]:
        windows = StreamedWindows(dataset, history=2, chunk=2, memory_gb=gib(24))
        return windows, to_iterable_dataset(windows, windows.order(batch_size=4, seed=0), steps=12)

    windows, examples = opened()
    found = []
    for number, example in enumerate(examples):
        found.append(example)
        if number == 4 * 9 + 1:
            state = examples.state_dict()
    assert len(found) == 48
    expected = windows.batch(windows.order(batch_size=4, seed=0).indices(5))
    np.testing.assert_array_equal(found[21]["images.front"], expected.images["front"][1].numpy())
    np.testing.assert_array_equal(found[21]["actions"], expected.actions[1].numpy())
    assert found[21]["instruction"] == expected.instruction[1]
    windows.close()
    windows, again = opened()
    again.load_state_dict(state)
    rest = list(again)
    assert [example["step"] for example in rest] == [9, 9, 10, 10, 10, 10, 11, 11, 11, 11]
    for one, other in zip(rest, found[38:], strict=True):
        np.testing.assert_array_equal(one["images.wrist"], other["images.wrist"])
        np.testing.assert_array_equal(one["state"], other["state"])
    windows.close()
