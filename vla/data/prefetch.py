"""Makes batches in a thread while the caller works on the ones before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yields `items` in order, at most `depth` of them ready ahead, made in one background thread.

    An exception of `items` is raised at its place in the order. The thread ends when the caller closes or
    drops the generator, even if `items` is endless.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; expected at least 1")
    return _prefetch(items, depth)


def _prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[T | None, BaseException | None, bool]) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put((item, None, False)):
                    return
        except BaseException as error:  # noqa: BLE001, RUF100 - raised again in the caller's thread
            put((None, error, True))
        else:
            put((None, None, True))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
