from __future__ import annotations

import importlib.util
import itertools
import signal
import subprocess
import sys
import threading
import time
import weakref

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
    assert made == [0, 1, 2]  # the first was taken, two are ready
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


def test_a_generator_is_closed_with_its_reader():
    ended = []

    def endless():
        try:
            yield from itertools.count()
        finally:
            ended.append(threading.current_thread().name)

    items = prefetch(endless())
    next(items)
    items.close()
    assert ended == ["prefetch"]


def test_items_are_held_by_their_reader_alone():
    class Item:
        pass

    items = prefetch((Item() for _ in range(3)), depth=1)
    taken = next(items)
    seen = weakref.ref(taken)
    del taken
    deadline = time.monotonic() + 60
    while (
        seen() is not None and time.monotonic() < deadline
    ):  # the thread may not have left the call yet
        time.sleep(0.01)
    assert seen() is None


# Loads the file alone: the package would be imported for longer than the test takes.
INTERRUPTED = """
import runpy, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
prefetch = runpy.run_path(sys.argv[1])["prefetch"]
def items():
    yield 0
    print("waiting", flush=True)
    time.sleep(0.3)
    yield 1
    time.sleep(1)
try:
    for item in prefetch(items()):
        pass
except KeyboardInterrupt:
    print("interrupted", threading.active_count(), flush=True)
"""


def test_control_c_ends_the_wait_for_an_item():
    command = [
        sys.executable,
        "-c",
        INTERRUPTED,
        importlib.util.find_spec("vla.data.loading.prefetching").origin,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted 1\n"
        assert process.wait(60) == 0


def test_wrong_depth():
    with pytest.raises(ValueError, match="depth is 0"):
        prefetch([], depth=0)
