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

    Unlike those of a `ThreadPoolExecutor`, they leave undone what is in the queue when the program ends.
    """

    def __init__(self, threads: int, name: str = "worker") -> None:
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        # the threads must not refer to this object, or it would live as long as they do
        crew = [
            threading.Thread(
                target=_work, args=(self._queue, self._stop), name=f"{name}-{i}", daemon=True
            )
            for i in range(threads)
        ]
        self.close = weakref.finalize(self, _close, self._queue, self._stop, crew)
        for thread in crew:
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
    while (entry := jobs.get()) is not None and not stop.is_set():
        future, job, args = entry
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(job(*args))
            except BaseException as error:  # noqa: BLE001, RUF100 - raised again where the result is asked for
                future.set_exception(error)
        del future, job, args, entry


def _close(
    jobs: queue.SimpleQueue[_Job | None], stop: threading.Event, crew: list[threading.Thread]
) -> None:
    stop.set()
    for _ in crew:
        jobs.put(None)
    for thread in crew:
        if thread is not threading.current_thread():
            thread.join()
