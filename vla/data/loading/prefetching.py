"""Makes batches in a thread while the caller works on the ones before."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yields `items` in order, at most `depth` of them ready ahead, made in one background thread.

    An exception of `items` is raised at its place in the order. The thread ends when the caller closes or
    drops the generator, even if `items` is endless; if `items` is a generator it is closed.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; expected at least 1")
    return _prefetch(items, depth)


def _prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    line: _Line[T] = _Line(depth)
    thread = threading.Thread(target=line.produce, args=(items,), name="prefetch", daemon=True)
    try:
        thread.start()  # waits for the thread, and may be interrupted while it does
        while line.wait():
            yield line.take()
    finally:
        line.stop()
        if thread.ident is not None:
            thread.join()


class _Line(Generic[T]):
    """Items that are ready. Neither side looks again and again: each is woken when there is something to do."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._ready: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = self._stopped = False

    def produce(self, items: Iterable[T]) -> None:
        try:
            source = iter(items)
            while self._room():
                try:
                    self._put(next(source))
                except StopIteration:
                    break
            if isinstance(source, Generator):
                source.close()
        except BaseException as error:  # noqa: BLE001, RUF100 - raised again in the caller's thread
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _room(self) -> bool:
        """Waits until another item may be made. False where nobody wants one any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._ready) < self.depth)
            return not self._stopped

    def _put(self, item: T) -> None:
        with self._changed:
            self._ready.append(item)
            self._changed.notify_all()

    def wait(self) -> bool:
        """Waits for the next item; False after the last one. Raises what making it raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._ready)
            if self._ready:
                return True
        if self._error is not None:
            raise self._error
        return False

    def take(self) -> T:
        """The next item; nothing here holds it any longer, so that its memory can be used again."""
        with self._changed:
            item = self._ready.popleft()
            self._changed.notify_all()
        return item

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()
