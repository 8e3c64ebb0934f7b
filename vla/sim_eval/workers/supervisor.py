"""Starts workers, sends them requests, notices the dead and the hung, replaces them, ends them.

Where workers run is the launcher's affair (`processes.py`, `ray_actors.py`), and what they do is
their users' (`rollouts/env_workers.py`, `job_pool.py`). A worker carries out its requests one after
the other. When it is lost, its state and its unanswered requests are gone: the user hears which
those were, and a new worker has taken its place.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vla.sim_eval.workers.worker import ErrorText, Result

START_SECONDS = 300.0  # a worker that has not started by then hangs
POLL_SECONDS = 1.0  # between two looks at the clocks of workers that say nothing


@dataclass(frozen=True)
class Death:
    """Why a worker is no more.

    Attributes:
        reason: completes "the worker process ...".
        exit_code: of a process that ended by itself or by a signal (-9 is SIGKILL); None otherwise.
        from_outside: it was ended from outside (a signal, a node of a cluster), so what it did may
            not be the cause.
    """

    reason: str
    exit_code: int | None = None
    from_outside: bool = False


@dataclass(frozen=True)
class Reply:
    """The outcome of the request with this ticket; without a ticket a mere sign of life."""

    ticket: int | None
    outcome: Result | ErrorText | None


class WorkerHandle(Protocol):
    """One worker, seen from here.

    Attributes:
        death: why it has ended, once `poll` has noticed.
    """

    death: Death | None

    def send(self, ticket: int, request: Any) -> None:
        """Hands over a request. A worker that is gone is noticed by `poll`."""

    def poll(self) -> list[Reply]:
        """All that has come, without waiting."""

    def kill(self) -> None:
        """Ends it at once, and frees what it held."""


class WorkerLauncher(Protocol):
    """Where workers run."""

    def start(self) -> WorkerHandle:
        """A new worker; it need not be up yet."""

    def wait(self, handles: Sequence[Any], timeout: float) -> None:
        """Waits until one of them has something to `poll`, at most `timeout` seconds."""

    def stop(self, handles: Sequence[Any]) -> None:
        """Ends them all."""


@dataclass(frozen=True)
class Answered:
    worker: int
    request: Any
    value: Any


@dataclass(frozen=True)
class Raised:
    """error: what the request raised, in words."""

    worker: int
    request: Any
    error: str


@dataclass(frozen=True)
class Lost:
    """A worker died or hung; a new one has its number.

    requests: what it had not answered, oldest first; the first it had in hand.
    """

    worker: int
    requests: tuple[Any, ...]
    death: Death


Event = Answered | Raised | Lost


@dataclass
class Assignment:
    """What a worker has to do.

    Attributes:
        pending: ticket -> request under way, oldest first.
        last_heartbeat: when it last answered, or was sent something while it had nothing to do.
        started: whether it has said anything yet: imports take longer than any request.
    """

    pending: dict[int, Any] = field(default_factory=dict)
    last_heartbeat: float = 0.0
    started: bool = False

    def sent(self, ticket: int, request: Any) -> None:
        if not self.pending:
            # a worker that waited for work has not been silent
            self.last_heartbeat = time.monotonic()
        self.pending[ticket] = request

    def answered(self, ticket: int | None) -> Any:
        """The request of the ticket, which is done; None for a mere sign of life."""
        self.last_heartbeat = time.monotonic()
        self.started = True
        return None if ticket is None else self.pending.pop(ticket)

    def overdue(self, timeout: float | None) -> Death | None:
        """Its death, if it counts as hung."""
        if timeout is None or not self.pending:
            return None
        patience = timeout if self.started else max(timeout, START_SECONDS)
        if time.monotonic() - self.last_heartbeat <= patience:
            return None
        return Death(f"gave no answer for {patience:g} seconds")


@dataclass
class _Supervised:
    handle: WorkerHandle
    assignment: Assignment = field(default_factory=Assignment)


class Supervisor:
    """Workers 0 to count - 1, each of which carries out requests.

    Args:
        launcher: starts them.
        count: how many.
        timeout: seconds without an answer after which a worker counts as hung; None: they may take
            any time.
    """

    def __init__(
        self, launcher: WorkerLauncher, count: int, *, timeout: float | None = None
    ) -> None:
        self._launcher = launcher
        self._timeout = timeout
        self._tickets = itertools.count()
        self._workers: list[_Supervised] = []
        try:
            for _ in range(count):
                self._workers.append(_Supervised(launcher.start()))
        except BaseException:
            # also at Ctrl-C: without this the workers that were started would stay
            self.close()
            raise

    def send(self, worker: int, request: Any) -> None:
        """Hands a request to a worker. One that is gone is noticed by `receive`."""
        supervised = self._workers[worker]
        ticket = next(self._tickets)
        supervised.assignment.sent(ticket, request)
        supervised.handle.send(ticket, request)

    def receive(self) -> list[Event]:
        """Waits until a busy worker has answered or is lost; empty if none is busy."""
        numbers = [i for i, worker in enumerate(self._workers) if worker.assignment.pending]
        events: list[Event] = []
        while numbers and not events:
            handles = [self._workers[number].handle for number in numbers]
            self._launcher.wait(handles, POLL_SECONDS)
            for number in numbers:
                events += self._read(number)
        return events

    def _read(self, number: int) -> list[Event]:
        worker = self._workers[number]
        events: list[Event] = []
        for reply in worker.handle.poll():
            request = worker.assignment.answered(reply.ticket)
            if isinstance(reply.outcome, Result):
                events.append(Answered(number, request, reply.outcome.value))
            elif isinstance(reply.outcome, ErrorText):
                events.append(Raised(number, request, reply.outcome.text))
        # one that died after its last answer is replaced at its next request
        if worker.assignment.pending:
            death = worker.handle.death or worker.assignment.overdue(self._timeout)
            if death is not None:
                events.append(self._replace(number, death))
        return events

    def _replace(self, number: int, death: Death) -> Lost:
        worker = self._workers[number]
        # before the next one starts: a worker that hangs keeps its memory, and its CPU of a cluster
        worker.handle.kill()
        self._workers[number] = _Supervised(self._launcher.start())
        return Lost(number, tuple(worker.assignment.pending.values()), death)

    def close(self) -> None:
        """Ends all workers."""
        self._launcher.stop([worker.handle for worker in self._workers])
        self._workers.clear()
