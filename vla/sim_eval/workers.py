"""A pool of worker processes whose results come in the order of the jobs, however many workers there are.

Each worker has a pipe of its own, so that a worker that raises or dies is known together with its job.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from vla.config import UserError

J = TypeVar("J")
R = TypeVar("R")
AHEAD = 4  # jobs per worker that may run ahead of the oldest unfinished one; bounds the results held in memory


class WorkerError(UserError):
    """A job raised, or its worker died; the message names the job."""


def process_context() -> Any:
    """The multiprocessing context of worker processes: never as a fork of this process, whose rendering contexts, CUDA state
    and threads do not survive one.

    Where the system can, they are forks of a clean server process that has imported this package once: a
    worker then starts in milliseconds, not in the seconds that the imports take.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vla.sim_eval"])
    return context


def run_ordered(
    make_work: Callable[[], Callable[[J], R]], jobs: Iterable[J], *, workers: int, describe: Callable[[J], str] = str
) -> Generator[R, None, None]:
    """Runs the jobs in worker processes and yields their results in the order of the jobs.

    With one worker the jobs run in this process. Closing the generator ends the workers.

    Args:
        make_work: called once in each worker; gives the function that does a job. It, the jobs and the
            results are sent between processes. If what it gives has a `close` method, that is called at the end.
        jobs: taken as they are needed.
        workers: number of processes.
        describe: the job in words, for errors.

    Raises:
        WorkerError: a job raised, or its worker died.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if workers == 1:
        yield from _run_here(make_work, jobs, describe)
        return
    pool = _Pool(make_work, workers, describe)
    try:
        yield from pool.run(iter(jobs))
    finally:
        pool.close()


def _run_here(
    make_work: Callable[[], Callable[[J], R]], jobs: Iterable[J], describe: Callable[[J], str]
) -> Generator[R, None, None]:
    work = make_work()
    try:
        for job in jobs:
            try:
                result = work(job)
            except Exception as error:
                raise WorkerError(f"{describe(job)}: {type(error).__name__}: {error}") from error
            yield result
    finally:
        _close(work)


class _Pool(Generic[J, R]):
    def __init__(self, make_work: Callable[[], Callable[[J], R]], workers: int, describe: Callable[[J], str]) -> None:
        context = process_context()
        self._describe = describe
        self._processes: dict[Connection, Any] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker_main, args=(theirs, make_work), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def run(self, jobs: Iterable[J]) -> Generator[R, None, None]:
        jobs = iter(jobs)
        order: deque[int] = deque()  # numbers of the jobs that were given out and not yet yielded
        finished: dict[int, R] = {}
        running: dict[Connection, tuple[int, J]] = {}
        idle, count, more = list(self._processes), 0, True
        while more or order:
            while more and idle and len(order) < AHEAD * len(self._processes):
                try:
                    job = next(jobs)
                except StopIteration:
                    more = False
                    break
                pipe = idle.pop()
                running[pipe] = count, job
                order.append(count)
                count += 1
                self._send(pipe, job)
            ready = wait(list(running)) if running else []  # nothing runs if the jobs end just as all are done
            for pipe in [pipe for pipe in running if pipe in ready]:
                number, job = running.pop(pipe)
                finished[number] = self._receive(pipe, job)
                idle.append(pipe)
            while order and order[0] in finished:
                yield finished.pop(order.popleft())

    def _send(self, pipe: Connection, job: J) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer will tell
            pipe.send(job)

    def _receive(self, pipe: Connection, job: J) -> R:
        try:
            done, value = pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            process = self._processes[pipe]
            process.join(timeout=10)
            raise WorkerError(
                f"{self._describe(job)}: the worker process ended with exit code {process.exitcode} (a negative code is "
                "a signal, -9 often means out of memory: use fewer workers); a script that starts workers must do so "
                'under `if __name__ == "__main__":`'
            ) from error
        if not done:
            raise WorkerError(f"{self._describe(job)}: the worker raised\n{value}")
        return value

    def close(self) -> None:
        for pipe in self._processes:
            with contextlib.suppress(OSError):
                pipe.send(_STOP)
            pipe.close()
        deadline = time.monotonic() + 2.0  # for all together; one that is busy then has nothing to lose
        for process in self._processes.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.terminate()
                process.join()


_STOP = "__stop__"


def _worker_main(pipe: Connection, make_work: Callable[[], Callable[[Any], Any]]) -> None:
    """Does jobs until the parent says stop, closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    work = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while not isinstance(job := pipe.recv(), str) or job != _STOP:
            try:
                work = work or make_work()
                answer = True, work(job)
            except Exception:
                answer = False, traceback.format_exc()
            pipe.send(answer)
    _close(work)


def _close(work: Any) -> None:
    if hasattr(work, "close"):
        work.close()
