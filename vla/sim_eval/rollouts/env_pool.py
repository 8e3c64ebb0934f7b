"""Slots for envs, and the worker processes of this machine that hold them: start, talk, notice the dead and the
hung, replace, end."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vla.config import UserError
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollouts.env_worker import Answer, Command, EnvHost, shared_views, worker_main
from vla.sim_eval.rollouts.job_pool import process_context

START_SECONDS = 300.0  # a worker that has not started by then hangs


class RolloutError(UserError):
    """An episode could not be played; the message names its task and seed."""


@dataclass(frozen=True)
class LostEnvs:
    """A worker died or hung. Its envs are gone; a new worker has taken its place.

    Attributes:
        slots: the slots that the worker held.
        working_on: the slot whose command it had in hand.
        reason: completes "the worker process ...".
        from_outside: it was ended by somebody else (a signal, a node of a cluster), so its episode may be innocent.
    """

    slots: tuple[int, ...]
    working_on: int
    reason: str
    from_outside: bool = False


class EnvWorkers(Protocol):
    """Slots, each with room for one env and at most one command under way."""

    def send(self, command: Command) -> None:
        """Hands a command to the slot's worker. A worker that is gone is noticed by `receive`."""

    def receive(self) -> list[Answer | LostEnvs]:
        """Waits until at least one worker has answered or is lost; returns all that has come."""

    def gather(self, slots: Sequence[int]) -> dict[str, np.ndarray]:
        """camera -> a copy of the images of `slots`, uint8 (B, H, W, 3)."""

    def close(self) -> None:
        """Ends all workers."""


@dataclass
class Assignment:
    """What a worker is to do.

    Attributes:
        slots: the slots that it holds.
        pending: slots with a command under way, oldest first.
        last_heartbeat: when it last answered, or was sent something while it had nothing to do.
        up: whether it has started: imports take longer than any step.
    """

    slots: tuple[int, ...]
    pending: deque[int] = field(default_factory=deque)
    last_heartbeat: float = 0.0
    up: bool = False

    def sent(self, slot: int) -> None:
        if not self.pending:
            self.last_heartbeat = time.monotonic()
        self.pending.append(slot)

    def answered(self, slot: int | None = None) -> None:
        """slot: whose command is done; None for a mere sign of life."""
        self.last_heartbeat, self.up = time.monotonic(), True
        if slot is not None:
            self.pending.remove(slot)

    def overdue(self, timeout: float) -> str:
        """Why the worker counts as hung; empty while it does not."""
        patience = timeout if self.up else max(timeout, START_SECONDS)
        hung = self.pending and time.monotonic() - self.last_heartbeat > patience
        return f"gave no answer for {patience:g} seconds" if hung else ""


class InlineEnvWorkers:
    """All slots in this process."""

    def __init__(self, config: EnvConfig, cameras: Sequence[str], *, slots: int) -> None:
        sizes = config.spec().cameras
        self._images = {
            camera: np.zeros((slots, *sizes[camera], 3), np.uint8) for camera in cameras
        }
        self._host = EnvHost(config, self._images)
        self._answers: list[Answer | LostEnvs] = []

    def send(self, command: Command) -> None:
        self._answers.append(self._host.handle(command))

    def receive(self) -> list[Answer | LostEnvs]:
        answers, self._answers = self._answers, []
        return answers

    def gather(self, slots: Sequence[int]) -> dict[str, np.ndarray]:
        return {camera: images[list(slots)] for camera, images in self._images.items()}

    def close(self) -> None:
        self._host.close()


@dataclass
class _Worker:
    process: Any
    pipe: Any
    assignment: Assignment


class LocalEnvWorkers:
    """Slots spread over processes of this machine. Images come through shared memory, the rest through pipes."""

    def __init__(
        self, config: EnvConfig, cameras: Sequence[str], *, slots: int, workers: int, timeout: float
    ) -> None:
        self._config, self._slots, self._timeout = config, slots, timeout
        self._context = process_context()
        sizes = config.spec().cameras
        self._buffers = {
            c: self._context.RawArray(ctypes.c_uint8, slots * sizes[c][0] * sizes[c][1] * 3)
            for c in cameras
        }
        self._images = shared_views(config, self._buffers, slots)
        self._workers: list[_Worker] = []
        self._of_slot: dict[int, _Worker] = {}
        try:
            for rank in range(workers):
                self._add_worker(tuple(range(rank, slots, workers)))
        except BaseException:
            self.close()
            raise

    def _add_worker(self, slots: tuple[int, ...]) -> None:
        mine, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker_main, args=(theirs, self._config, self._buffers, self._slots), daemon=True
        )
        process.start()
        theirs.close()
        worker = _Worker(process, mine, Assignment(slots))
        self._workers.append(worker)
        self._of_slot.update(dict.fromkeys(slots, worker))

    def gather(self, slots: Sequence[int]) -> dict[str, np.ndarray]:
        return {camera: images[list(slots)] for camera, images in self._images.items()}

    def send(self, command: Command) -> None:
        worker = self._of_slot[command.slot]
        worker.assignment.sent(command.slot)
        try:
            worker.pipe.send(command)
        except (BrokenPipeError, ConnectionResetError):
            worker.process.join(1)

    def receive(self) -> list[Answer | LostEnvs]:
        busy = [worker for worker in self._workers if worker.assignment.pending]
        found: list[Answer | LostEnvs] = []
        while busy and not found:
            multiprocessing.connection.wait(
                [w.pipe for w in busy] + [w.process.sentinel for w in busy], timeout=1.0
            )
            for worker in busy:
                found += self._read(worker)
        return found

    def _read(self, worker: _Worker) -> list[Answer | LostEnvs]:
        answers: list[Answer | LostEnvs] = []
        try:
            while worker.pipe.poll():
                answer: Answer | None = worker.pipe.recv()
                worker.assignment.answered(
                    None if answer is None else answer.slot
                )  # None is its first sign of life
                if answer is not None:
                    answers.append(answer)
        except (EOFError, OSError):  # OSError: it was killed in the middle of a message
            worker.process.join(1)
        if worker.assignment.pending and not worker.process.is_alive():
            code = worker.process.exitcode
            answers.append(
                self._replace(
                    worker, _cause_of_death(code), code in (-signal.SIGKILL, -signal.SIGTERM)
                )
            )
        elif reason := worker.assignment.overdue(self._timeout):
            answers.append(self._replace(worker, reason, False))
        return answers

    def _replace(self, worker: _Worker, reason: str, from_outside: bool) -> LostEnvs:
        self._workers.remove(worker)
        _kill(worker)
        self._add_worker(worker.assignment.slots)
        return LostEnvs(worker.assignment.slots, worker.assignment.pending[0], reason, from_outside)

    def close(self) -> None:
        """Ends all workers: asks, waits a little, then kills."""
        for worker in self._workers:
            try:
                worker.pipe.send(None)
            except OSError:
                continue
        deadline = time.monotonic() + 3
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            _kill(worker)
        self._workers.clear()


def _cause_of_death(exit_code: int) -> str:
    if exit_code == 1:
        return (
            "died with exit code 1 (its messages stand above; a script must start workers under "
            "`if __name__ == '__main__':`, or use workers=0)"
        )
    return f"died with exit code {exit_code}" + (
        " (killed; out of memory?)" if exit_code == -9 else ""
    )


def _kill(worker: _Worker) -> None:
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    worker.process.close()
