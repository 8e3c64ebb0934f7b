"""A few threads that work off a queue, and that never keep a program from ending."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class Workers:
    """Runs what is submitted, in order, on `threads` daemon threads.

    Unlike those of a `ThreadPoolExecutor`, they leave undone what is in the queue when the program
    ends.
    """

    def __init__(self, threads: int, name: str = "worker") -> None:
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        # the threads must not refer to this object, or it would live as long as they do
        started = [
            threading.Thread(
                target=_work, args=(self._queue, self._stop), name=f"{name}-{number}", daemon=True
            )
            for number in range(threads)
        ]
        self.close = weakref.finalize(self, _close, self._queue, self._stop, started)
        for thread in started:
            thread.start()

    @property
    def stopping(self) -> bool:
        """Whether it was closed: long jobs look here."""
        return self._stop.is_set()

    def submit(self, job: Callable[..., T], *args: Any) -> Future[T]:
        """The job's result, or what it raised, at some time; never after `close`."""
        future: Future[T] = Future()
        self._queue.put((future, job, args))
        return future


def _work(jobs: queue.SimpleQueue[_Job | None], stop: threading.Event) -> None:
    while True:
        entry = jobs.get()
        # None wakes a thread that waits while the others end
        if entry is None or stop.is_set():
            return
        future, job, args = entry
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(job(*args))
            except BaseException as error:  # noqa: BLE001, RUF100 - raised by `Future.result`
                future.set_exception(error)
        # or the last job's arrays would live until the next one comes
        del future, job, args, entry


def _close(
    jobs: queue.SimpleQueue[_Job | None],
    stop: threading.Event,
    threads: list[threading.Thread],
) -> None:
    stop.set()
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        # a finalizer may run in one of the threads, which cannot wait for itself
        if thread is not threading.current_thread():
            thread.join()
