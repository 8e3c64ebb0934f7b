"""A pool of workers whose results come in the order of the jobs, however many workers there are.

Each worker has a line of its own, so that one that raises or dies is known together with its job. The job of a worker
that dies is done again by another.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from vla.config import ConfigError, UserError

J = TypeVar("J")
R = TypeVar("R")
AHEAD = 4  # jobs per worker that may run ahead of the oldest unfinished one; bounds the results held in memory
RETRIES = 3  # of a job whose worker dies


class WorkerError(UserError):
    """A job raised, or its worker died; the message names the job."""


@dataclass(frozen=True)
class Finished:
    value: Any


@dataclass(frozen=True)
class Raised:
    traceback: str


@dataclass(frozen=True)
class Died:
    """reason: completes "the worker process ..."."""

    reason: str


class JobPool(Protocol):
    """Workers, each with one job at a time."""

    def submit(self, worker: int, job: Any) -> None:
        """Hands a job to an idle worker. One that is gone is noticed by `wait`."""

    def wait(self, busy: Collection[int]) -> list[tuple[int, Finished | Raised | Died]]:
        """Waits until at least one of the busy workers is done. One that has died is replaced already."""

    def close(self) -> None:
        """Ends all workers."""


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
    make_work: Callable[[], Callable[[J], R]],
    jobs: Iterable[J],
    *,
    workers: int,
    describe: Callable[[J], str] = str,
    pool: Callable[[Callable[[], Callable[[Any], Any]], int], JobPool] | None = None,
) -> Generator[R, None, None]:
    """Runs the jobs in workers and yields their results in the order of the jobs.

    Without a `pool` the workers are processes, and a single one is this process. Closing the generator ends them.

    Args:
        make_work: called once in each worker; gives the function that does a job. It, the jobs and the
            results are sent between processes. If what it gives has a `close` method, that is called at the end.
        jobs: taken as they are needed.
        workers: number of workers.
        describe: the job in words, for errors.
        pool: makes the workers from `make_work` and their number.

    Raises:
        WorkerError: a job raised, or lost its worker again and again.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if workers == 1 and pool is None:
        yield from _run_here(make_work, jobs, describe)
        return
    team = (pool or ProcessJobPool)(make_work, workers)
    try:
        yield from _run(team, workers, iter(jobs), describe)
    finally:
        team.close()


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
        close_work(work)


def _run(
    pool: JobPool, workers: int, jobs: Iterable[J], describe: Callable[[J], str]
) -> Generator[Any, None, None]:
    jobs = iter(jobs)
    order: deque[int] = deque()  # numbers of the jobs that were given out and not yet yielded
    finished: dict[int, Any] = {}
    running: dict[int, tuple[int, J]] = {}  # worker -> its job
    losses: Counter[int] = Counter()
    idle, count, more = list(range(workers)), 0, True
    while more or order:
        while more and idle and len(order) < AHEAD * workers:
            try:
                job = next(jobs)
            except StopIteration:
                more = False
                break
            worker = idle.pop()
            running[worker] = count, job
            order.append(count)
            count += 1
            pool.submit(worker, job)
        for worker, outcome in (
            pool.wait(running) if running else []
        ):  # nothing runs if jobs end just as all are done
            number, job = running[worker]
            losses[number] += isinstance(outcome, Died)
            if isinstance(outcome, Died) and losses[number] <= RETRIES:
                pool.submit(worker, job)
                continue
            finished[number] = _value(outcome, describe(job))
            del running[worker]
            idle.append(worker)
        while order and order[0] in finished:
            yield finished.pop(order.popleft())


def _value(outcome: Finished | Raised | Died, job: str) -> Any:
    if isinstance(outcome, Raised):
        raise WorkerError(f"{job}: the worker raised\n{outcome.traceback}")
    if isinstance(outcome, Died):
        raise WorkerError(
            f"{job}: the worker process {outcome.reason}, in {RETRIES + 1} tries of this job"
        )
    return outcome.value


class ProcessJobPool:
    """Worker processes of this machine."""

    def __init__(self, make_work: Callable[[], Callable[[Any], Any]], workers: int) -> None:
        self._context, self._make_work = process_context(), make_work
        self._members = [self._start() for _ in range(workers)]

    def _start(self) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_worker_main, args=(theirs, self._make_work), daemon=True
        )
        process.start()
        theirs.close()
        return process, ours

    def submit(self, worker: int, job: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer will tell
            self._members[worker][1].send(job)

    def wait(self, busy: Collection[int]) -> list[tuple[int, Finished | Raised | Died]]:
        ready = wait([self._members[worker][1] for worker in busy])
        return [
            (worker, self._receive(worker)) for worker in busy if self._members[worker][1] in ready
        ]

    def _receive(self, worker: int) -> Finished | Raised | Died:
        process, pipe = self._members[worker]
        try:
            return pipe.recv()
        except (EOFError, OSError):
            process.join(timeout=10)
            pipe.close()
            self._members[worker] = self._start()
            return Died(
                f"ended with exit code {process.exitcode} (a negative code is a signal, -9 often means out of memory: use "
                'fewer workers); a script that starts workers must do so under `if __name__ == "__main__":`'
            )

    def close(self) -> None:
        for _, pipe in self._members:
            with contextlib.suppress(OSError):
                pipe.send(_STOP)
            pipe.close()
        deadline = (
            time.monotonic() + 2.0
        )  # for all together; one that is busy then has nothing to lose
        for process, _ in self._members:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.terminate()
                process.join()


_STOP = "__stop__"


def _worker_main(pipe: Connection, make_work: Callable[[], Callable[[Any], Any]]) -> None:
    """Does jobs until the parent says stop, closes the pipe or dies."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which then ends its workers
    worker = Worker(make_work)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while not isinstance(job := pipe.recv(), str) or job != _STOP:
            pipe.send(worker.do(job))
    worker.close()


class Worker:
    """Does jobs, wherever it runs; what makes them is made for the first one."""

    def __init__(self, make_work: Callable[[], Callable[[Any], Any]]) -> None:
        self._make_work = make_work
        self._work: Any = None

    def do(self, job: Any) -> Finished | Raised:
        try:
            self._work = self._work or self._make_work()
            return Finished(self._work(job))
        except ConfigError as error:  # its words say all
            return Raised(f"{type(error).__name__}: {error}")
        except Exception:
            return Raised(traceback.format_exc())

    def close(self) -> None:
        close_work(self._work)


def close_work(work: Any) -> None:
    if hasattr(work, "close"):
        work.close()
