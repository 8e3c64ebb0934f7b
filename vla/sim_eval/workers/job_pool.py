"""Jobs done by workers, with results in the order of the jobs, however many workers there are.

Each worker has one job at a time, so that one that raises or dies is known together with its job.
The job of a worker that dies is done again by another.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from vla.config import UserError
from vla.sim_eval.workers.launchers import Launcher, open_supervisor
from vla.sim_eval.workers.supervisor import Answered, Death, Lost, Raised, Supervisor
from vla.sim_eval.workers.worker import close_work

J = TypeVar("J")
R = TypeVar("R")
AHEAD = 4  # jobs per worker ahead of the oldest unfinished one: bounds the results in memory
RETRIES = 3  # of a job whose worker dies


class WorkerError(UserError):
    """A job raised, or its worker died; the message names the job."""


@dataclass(frozen=True)
class _Numbered:
    number: int
    job: Any


class JobPool:
    """Workers, each with one job at a time.

    Args:
        supervisor: of the workers.
        workers: their number.
        describe: a job in words, for errors.
    """

    def __init__(
        self, supervisor: Supervisor, workers: int, describe: Callable[[Any], str] = str
    ) -> None:
        self._supervisor = supervisor
        self._describe = describe
        self._idle = list(range(workers))
        self._running: dict[int, _Numbered] = {}  # worker -> its job
        self._losses: Counter[int] = Counter()  # number of a job -> workers that it has lost

    @property
    def has_idle(self) -> bool:
        """Whether a worker waits for a job."""
        return bool(self._idle)

    def submit(self, number: int, job: Any) -> None:
        """Hands a job to a worker that waits."""
        worker = self._idle.pop()
        self._running[worker] = _Numbered(number, job)
        self._supervisor.send(worker, job)

    def wait(self) -> Iterator[tuple[int, Any]]:
        """Waits for workers -> (number, result) of the jobs that are done, which may be none.

        Raises WorkerError if a job raised, or lost its worker again and again.
        """
        for event in self._supervisor.receive():
            running = self._running[event.worker]
            job = self._describe(running.job)
            if isinstance(event, Raised):
                raise WorkerError(f"{job}: the worker raised\n{event.error}")
            if isinstance(event, Lost):
                self._losses[running.number] += 1
                if self._losses[running.number] > RETRIES:
                    raise WorkerError(
                        f"{job}: the worker process {_reason(event.death)}, in {RETRIES + 1} "
                        "tries of this job"
                    )
                self._supervisor.send(event.worker, running.job)
            elif isinstance(event, Answered):
                del self._running[event.worker]
                self._idle.append(event.worker)
                yield running.number, event.value


def _reason(death: Death) -> str:
    if death.exit_code is None:
        return death.reason
    return (
        f"ended with exit code {death.exit_code} (a negative code is a signal, -9 often means out "
        "of memory: use fewer workers); a script that starts workers must do so under "
        '`if __name__ == "__main__":`'
    )


def run_ordered(
    make_work: Callable[[], Callable[[J], R]],
    jobs: Iterable[J],
    *,
    workers: int,
    describe: Callable[[J], str] = str,
    launcher: Launcher = "local",
    ray_address: str = "auto",
) -> Generator[R, None, None]:
    """Does the jobs in workers; yields results in the order of the jobs. Closing it ends them.

    Args:
        make_work: called once in each worker; gives the function that does a job. It, the jobs and
            the results are sent between processes. If what it gives has a `close` method, that is
            called at the end.
        jobs: taken as they are needed.
        workers: their number. A single local one is this process.
        describe: a job in words, for errors.
        launcher: "local" for processes of this machine, "ray" for actors of the cluster at
            `ray_address`.

    Raises:
        WorkerError: a job raised, or lost its worker again and again.
        UserError: Ray is asked for and cannot be had.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if workers == 1 and launcher == "local":
        yield from _run_here(make_work, jobs, describe)
        return
    with open_supervisor(
        launcher, make_work, workers=workers, ray_address=ray_address
    ) as supervisor:
        pool = JobPool(supervisor, workers, describe)
        yield from _in_order(pool, iter(jobs), AHEAD * workers)


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


def _in_order(pool: JobPool, jobs: Iterator[Any], ahead: int) -> Generator[Any, None, None]:
    """The results by number; at most `ahead` jobs are submitted and not yet yielded."""
    order: deque[int] = deque()  # numbers of the jobs that were submitted and not yet yielded
    finished: dict[int, Any] = {}
    count = 0
    more = True
    while more or order:
        while more and pool.has_idle and len(order) < ahead:
            try:
                job = next(jobs)
            except StopIteration:
                more = False
                break
            pool.submit(count, job)
            order.append(count)
            count += 1
        finished.update(pool.wait())
        # the oldest may still run while later ones are done: those wait here
        while order and order[0] in finished:
            yield finished.pop(order.popleft())
