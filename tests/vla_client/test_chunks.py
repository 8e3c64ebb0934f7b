"""The queue counts what was executed, drops what is late, and discards what a reset overtook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_client.chunks import ChunkQueue, LatencyEstimate

HZ = 10.0
DT = 1 / HZ


def chunk(first: float, length: int = 5) -> np.ndarray:
    """Actions first, first + 1 ... in one dimension."""
    return np.arange(first, first + length, dtype=np.float32)[:, None]


def popped(queue: ChunkQueue, now: float) -> float | None:
    due = queue.pop(now)
    return None if due is None else float(due.action_A[0])


def test_a_chunk_is_played_one_action_a_period() -> None:
    queue = ChunkQueue(HZ)
    assert queue.merge(queue.begin(0.0), chunk(0), 0.05) == 0
    assert [popped(queue, 0.1 + DT * k) for k in range(6)] == [0, 1, 2, 3, 4, None]


def test_what_was_executed_meanwhile_is_dropped_from_the_new_chunk() -> None:
    queue = ChunkQueue(HZ)
    queue.merge(queue.begin(0.0), chunk(0), 0.0)
    assert popped(queue, 0.0) == 0
    request = queue.begin(DT)  # the new chunk's first action belongs here
    assert [popped(queue, DT * k) for k in (1, 2)] == [1, 2]
    assert queue.merge(request, chunk(100), 2.5 * DT) == 2
    assert [popped(queue, DT * k) for k in (3, 4, 5)] == [102, 103, 104]


def test_a_robot_that_stands_begins_at_the_first_action() -> None:
    queue = ChunkQueue(HZ)
    assert queue.merge(queue.begin(0.0), chunk(0), 0.9) == 0
    due = queue.pop(1.0)
    assert due is not None
    assert due.action_A[0] == 0
    assert due.age_s == pytest.approx(0.9)


def test_a_robot_that_ran_out_goes_on_where_it_stands() -> None:
    queue = ChunkQueue(HZ)
    queue.merge(queue.begin(0.0), chunk(0, 2), 0.0)
    request = queue.begin(0.0)
    assert [popped(queue, DT * k) for k in range(5)] == [0, 1, None, None, None]
    assert queue.merge(request, chunk(100), 5 * DT) == 2
    assert popped(queue, 6 * DT) == 102, "two were executed, however long it then stood"


def test_after_a_lag_nothing_is_caught_up() -> None:
    queue = ChunkQueue(HZ)
    queue.merge(queue.begin(0.0), chunk(0), 0.0)
    assert popped(queue, 0.0) == 0
    assert popped(queue, 3 * DT) == 3
    assert queue.dropped_late == 2
    assert popped(queue, 20 * DT) is None
    assert queue.dropped_late == 3


def test_an_early_call_does_not_run_ahead() -> None:
    queue = ChunkQueue(HZ)
    queue.merge(queue.begin(0.0), chunk(0), 0.0)
    assert popped(queue, 0.0) == 0
    assert popped(queue, 0.2 * DT) is None
    assert popped(queue, DT) == 1


def test_a_reset_discards_what_was_asked_before() -> None:
    queue = ChunkQueue(HZ)
    request = queue.begin(0.0)
    queue.merge(queue.begin(0.0), chunk(0), 0.0)
    queue.reset()
    assert queue.merge(request, chunk(100), 0.1) == 5
    assert queue.discarded_chunks == 1
    assert popped(queue, 0.1) is None
    assert queue.prefix().shape == (0, 0)


def test_a_chunk_that_is_wholly_past_leaves_the_queue() -> None:
    queue = ChunkQueue(HZ)
    queue.merge(queue.begin(0.0), chunk(0), 0.0)
    request = queue.begin(0.0)
    assert [popped(queue, DT * k) for k in range(3)] == [0, 1, 2]
    assert queue.merge(request, chunk(100, 2), 3 * DT) == 2
    assert popped(queue, 3 * DT) == 3
    np.testing.assert_array_equal(queue.prefix(), [[4]])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 8)), max_size=20))
def test_the_actions_of_one_plan_are_played_in_order_and_once(
    answers: list[tuple[int, int]],
) -> None:
    """Each answer says the step's own number, so whatever arrives when, the steps count up."""
    queue = ChunkQueue(HZ)
    step, said = 0, []
    for delay, length in answers:
        request, plan = queue.begin(step * DT), chunk(len(said), length)
        for _ in range(delay):
            value = popped(queue, step * DT)
            said += [] if value is None else [value]
            step += 1
        queue.merge(request, plan, step * DT)
    assert said == list(range(len(said)))


def test_the_estimate_forgets_and_leaves_out_the_warm_up() -> None:
    estimate = LatencyEstimate(HZ)
    assert estimate.steps == 0
    for latency in [9.0, 9.0] + [0.95] * 5 + [0.15] * 95:
        estimate.add(latency)
    assert estimate.seconds == 0.15
    assert estimate.steps == 2
    estimate = LatencyEstimate(HZ, window=4, warm_up=0)
    for latency in [5.0] + [0.1] * 4:
        estimate.add(latency)
    assert estimate.steps == 1


@pytest.mark.parametrize("control_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_positive(control_hz: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        ChunkQueue(control_hz)
