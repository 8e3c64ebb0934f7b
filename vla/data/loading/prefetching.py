"""Makes batches in a thread while the caller works on the ones before."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yields `items` in order, at most `depth` of them ready ahead, made in one background thread.

    An exception of `items` is raised at its place in the order. The thread ends when the caller
    closes or drops the generator, even if `items` is endless; if `items` is a generator it is
    closed.

    Raises ValueError if `depth` is below 1.
    """
    # checked here: in the generator below it would be raised at the first item only
    if depth < 1:
        raise ValueError(f"depth is {depth}; expected at least 1")
    return _prefetch(items, depth)


def _prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    ready: _ReadyItems[T] = _ReadyItems(depth)
    thread = threading.Thread(target=ready.produce, args=(items,), name="prefetch", daemon=True)
    try:
        thread.start()  # waits for the thread, and may be interrupted while it does
        while ready.wait():
            # not through a variable: it would hold an item while the caller works on it
            yield ready.take()
    finally:
        ready.stop()
        if thread.ident is not None:
            thread.join()


class _ReadyItems(Generic[T]):
    """Items that are ready. Neither side polls: each is woken when there is something to do."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._ready: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = False
        self._stopped = False

    def produce(self, items: Iterable[T]) -> None:
        """Makes all items; runs in the background thread."""
        try:
            source = iter(items)
            while self._room():
                try:
                    self._put(next(source))
                except StopIteration:
                    break
            # in this thread: a generator cannot be closed by another one while it runs
            if isinstance(source, Generator):
                source.close()
        except BaseException as error:  # noqa: BLE001, RUF100 - raised again in the caller's thread
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _room(self) -> bool:
        """Waits until another item may be made. False if none is wanted any more."""
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
            # items that were made before an error come first
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
        """No further items are wanted; those that are ready are dropped."""
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()


__all__ = ["prefetch"]
