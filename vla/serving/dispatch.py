"""One thread that computes: it joins the robots that wait into batches.

Sockets never wait for the policy: observations are put here, actions come back as futures. Of one
session only the newest observation waits; an older one is answered with an error.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.control import BatchedPolicy, EpisodeState
from vla.control.inference_mode import inference
from vla.serving.metrics import Metrics
from vla.serving.observations import RobotInputs
from vla.serving.session import Session

log = logging.getLogger("vla.serving")
HUNG_AFTER = 30.0
"""Seconds without a finished batch, while robots wait, after which the server is not healthy."""


class SupersededError(UserError):
    """A newer observation of the same session came before this one was looked at."""


class ServerError(UserError):
    """Something failed inside the server; its log has the details under the id in the message."""


@dataclass(eq=False)
class Request:
    """An observation that waits for actions.

    Attributes:
        read: the inputs in the client's message; called by the thread that computes, so that
            pictures are not converted between two sockets.
        reset: whether an episode starts, of all robots or one by one.
        step: the control step by the client's count.
        received: when it came in, in seconds of `time.perf_counter`.
    """

    session: Session
    policy: BatchedPolicy
    read: Callable[[], RobotInputs]
    reset: bool | list[bool] = False
    step: int | None = None
    received: float = field(default_factory=time.perf_counter)
    future: Future[Answer] = field(default_factory=Future)

    def inherit_reset(self, older: Request) -> None:
        """The start of an episode holds though the observation that announced it is dropped."""
        if self.reset is True or older.reset is False:
            return
        if self.reset is False or older.reset is True:
            self.reset = older.reset
        elif len(self.reset) == len(older.reset):
            self.reset = [a or b for a, b in zip(self.reset, older.reset, strict=True)]


@dataclass(frozen=True)
class Answer:
    """Actions for the robots of a request.

    Attributes:
        actions: float32 (K, A) of each robot.
        inputs: what the robots saw.
        episodes: of each robot, the number of its episode in the session.
        batch: robots in the call of the policy, the greatest if there were several.
        queue_ms: between the receipt and the moment when the batch was taken up.
        infer_ms: from then to the actions.
        policy_ms: of these the policy's own.
    """

    actions: list[np.ndarray]
    inputs: RobotInputs
    episodes: list[int]
    batch: int
    queue_ms: float
    infer_ms: float
    policy_ms: float


@dataclass
class _Row:
    """A robot of a request in a batch."""

    request: Request
    images: dict[str, np.ndarray]
    state: EpisodeState
    actions: np.ndarray | None = None
    error: Exception | None = None


@dataclass
class _Batch:
    """What is worked on at once.

    Attributes:
        inputs, before: of each request, what it brought and what its session was.
    """

    started: float
    rows: list[_Row] = field(default_factory=list)
    inputs: dict[Request, RobotInputs] = field(default_factory=dict)
    before: dict[Request, dict[str, Any]] = field(default_factory=dict)
    largest: int = 0
    policy_s: float = 0.0


class Dispatcher:
    """The thread that computes, and the requests that wait for it.

    Args:
        actor: the policy, put into evaluation mode by the thread.
        max_batch: most robots of one call of the policy.
        max_wait: seconds that a call waits for further robots.
        threads: of torch; None leaves them.
        period: seconds of a control step, for the counting of late answers.
    """

    def __init__(
        self,
        actor: object,
        *,
        max_batch: int,
        max_wait: float,
        threads: int | None,
        period: float,
        metrics: Metrics,
    ) -> None:
        self._actor = actor
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._threads = threads
        self._period = period
        self._metrics = metrics
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._finished_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="vla-policy", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finishes what waits, refuses what comes, and ends the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join()

    def submit(self, request: Request) -> None:
        """Adds a request; its future gets an `Answer`, or an error.

        Raises UserError if the server is stopping.
        """
        with self._changed:
            if self._is_stopping:
                raise UserError("the server is stopping; connect again later")
            older = [other for other in self._waiting if other.session is request.session]
            for other in older:
                self._waiting.remove(other)
                request.inherit_reset(other)
            if not self._waiting:
                # the clock of `is_healthy` runs while something waits
                self._finished_at = time.monotonic()
            self._waiting.append(request)
            self._changed.notify_all()
        for other in older:
            error = "superseded by a newer observation of the same session; send one at a time"
            _fail(other, SupersededError(error))

    def drop(self, session: Session) -> None:
        """Forgets what waits of a client that is gone."""
        with self._changed:
            gone = [other for other in self._waiting if other.session is session]
            for other in gone:
                self._waiting.remove(other)
        for other in gone:
            other.future.cancel()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def is_healthy(self) -> bool:
        """Whether nothing waits, or a batch was finished lately."""
        if not self._thread.is_alive():
            return False
        return not self._waiting or time.monotonic() - self._finished_at < HUNG_AFTER

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        # the state of torch (threads, gradients, denormals) belongs to a thread
        with inference(self._actor, threads=self._threads):
            while requests := self._next():
                self._serve(requests)
                self._finished_at = time.monotonic()

    def _next(self) -> list[Request]:
        """The requests of the next batch, oldest first; empty when the server stops."""
        with self._changed:
            while not self._waiting:
                if self._is_stopping:
                    return []
                self._changed.wait()
            if self._max_wait:
                deadline = time.monotonic() + self._max_wait
                while self._robots_waiting() < self._max_batch and not self._is_stopping:
                    if not self._changed.wait(deadline - time.monotonic()):
                        break
            return self._taken()

    def _robots_waiting(self) -> int:
        return sum(max(1, len(request.session.robots)) for request in self._waiting)

    def _taken(self) -> list[Request]:
        taken: list[Request] = []
        room = self._max_batch
        # oldest first: whoever waits longest never waits for a batch that suits others better
        policy = self._waiting[0].policy if self._waiting else None
        for request in list(self._waiting):
            robots = max(1, len(request.session.robots))
            if taken and (room < robots or request.policy is not policy):
                continue
            taken.append(request)
            self._waiting.remove(request)
            room -= robots
            if room <= 0:
                break
        return taken

    def _serve(self, requests: list[Request]) -> None:
        # a future that is running cannot be cancelled any more: its answer is dropped later
        running = [r for r in requests if r.future.set_running_or_notify_cancel()]
        batch = _Batch(started=time.perf_counter())
        try:
            for request in running:
                self._prepare(request, batch)
            self._act(batch)
        except Exception as error:  # a fault of ours must not end the thread
            for request in running:
                _fail(request, _internal(error))
            return
        for request in batch.inputs:
            self._answer(request, batch)

    def _prepare(self, request: Request, batch: _Batch) -> None:
        """Reads a request; one that is wrong is answered at once."""
        session = request.session
        before = session.snapshot()
        try:
            inputs = request.read()
            session.observe(inputs, reset=request.reset, step=request.step, now=time.monotonic())
        except Exception as error:
            _fail(request, error if isinstance(error, UserError) else _internal(error))
            return
        batch.before[request] = before
        batch.inputs[request] = inputs
        for row, state in enumerate(session.robots):
            images = {camera: image[row] for camera, image in inputs.images.items()}
            batch.rows.append(_Row(request, images, state))

    def _act(self, batch: _Batch) -> None:
        """Actions or an error for every row."""
        # robots that start cannot share a call with others, nor those whose chunks are chosen in
        # different ways; calls of their own, so that an error in one leaves other robots as they
        # are
        alike: dict[tuple[Any, ...], list[_Row]] = defaultdict(list)
        for row in batch.rows:
            alike[row.state.call].append(row)
        for _, rows in sorted(alike.items()):
            rows.sort(key=lambda row: row.state.memory_batch)
            for first in range(0, len(rows), self._max_batch):
                self._call(rows[first : first + self._max_batch], batch)

    def _call(self, rows: Sequence[_Row], batch: _Batch) -> None:
        cameras = rows[0].images
        images = {camera: np.stack([row.images[camera] for row in rows]) for camera in cameras}
        policy = rows[0].request.policy
        before = 0 if policy.shield is None else policy.shield.interventions
        start = time.perf_counter()
        try:
            chosen = policy.act([row.state for row in rows], images)
        except Exception as error:
            if len(rows) > 1:
                # one robot's fault is not that of those beside it
                for row in rows:
                    self._call([row], batch)
                return
            rows[0].error = error if isinstance(error, UserError) else _internal(error)
            return
        batch.policy_s += time.perf_counter() - start
        batch.largest = max(batch.largest, len(rows))
        self._metrics.observe("vla_batch_size", len(rows))
        if policy.shield is not None:
            refused = policy.shield.interventions - before
            self._metrics.add("vla_shield_interventions_total", refused)
        for row, actions in zip(rows, chosen, strict=True):
            row.actions = actions

    def _answer(self, request: Request, batch: _Batch) -> None:
        rows = [row for row in batch.rows if row.request is request]
        error = next((row.error for row in rows if row.error is not None), None)
        if error is not None:
            # as if it had not been asked: no robot of the session is a step ahead of the others
            request.session.restore(batch.before[request])
            _fail(request, error)
            return
        now = time.perf_counter()
        self._metrics.observe("vla_latency_seconds", now - request.received)
        if now - request.received > self._period:
            self._metrics.add("vla_deadline_misses_total")
        answer = Answer(
            actions=[row.actions for row in rows if row.actions is not None],
            inputs=batch.inputs[request],
            episodes=request.session.episodes,
            batch=batch.largest,
            queue_ms=1000 * (batch.started - request.received),
            infer_ms=1000 * (now - batch.started),
            policy_ms=1000 * batch.policy_s,
        )
        request.future.set_result(answer)


def _fail(request: Request, error: Exception) -> None:
    if not request.future.done():
        request.future.set_exception(error)


def _internal(error: Exception) -> ServerError:
    """An error that tells the client nothing but where the log has the rest."""
    number = uuid.uuid4().hex[:8]
    log.error("internal error %s", number, exc_info=error)
    return ServerError(f"the server failed on this observation (its log has it as {number})")
