from __future__ import annotations

import itertools
import threading
import time

import pytest

from vla.data import prefetch


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_order_is_kept():
    assert list(prefetch(range(50), depth=3)) == list(range(50))
    assert list(prefetch([])) == []
    assert not workers()


def test_at_most_depth_items_are_made_ahead():
    made = []
    items = prefetch((made.append(i) or i for i in itertools.count()), depth=2)
    assert next(items) == 0
    time.sleep(0.2)
    # Two wait in the queue, one more is in the thread's hands.
    assert len(made) <= 1 + 2 + 1
    items.close()
    assert not workers()


def test_an_exception_comes_at_its_place():
    def failing():
        yield from range(3)
        raise RuntimeError("the disk is gone")

    seen = []
    with pytest.raises(RuntimeError, match="the disk is gone"):
        seen.extend(prefetch(failing()))
    items = prefetch(failing())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(items)
    assert not workers()


def test_an_endless_iterable_stops_with_its_reader():
    for i in prefetch(itertools.count()):
        if i == 5:
            break
    # The generator was dropped by leaving the loop.
    deadline = time.monotonic() + 5
    while workers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not workers()


def test_wrong_depth():
    with pytest.raises(ValueError, match="depth is 0"):
        prefetch([], depth=0)
