"""Worker processes for rollouts: start, talk, notice the dead and the hung, replace, end."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from vla.config import UserError
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollout_worker import Answer, Command, EnvHost, shared_views, worker_main
from vla.sim_eval.workers import process_context

START_SECONDS = 300.0  # a worker that has not started by then hangs


class RolloutError(UserError):
    """An episode could not be played; the message names its task and seed."""


@dataclass(frozen=True)
class Lost:
    """A worker died or hung. Its envs are gone; a new worker has taken its place.

    Attributes:
        slots: the slots that the worker held.
        working_on: the slot whose command it had in hand.
        reason: completes "the worker process ...".
    """

    slots: tuple[int, ...]
    working_on: int
    reason: str


@dataclass
class _Worker:
    process: Any
    pipe: Any
    slots: tuple[int, ...]
    pending: deque[int] = field(default_factory=deque)  # slots with a command under way, oldest first
    heard: float = 0.0  # when it last answered, or was sent something while it had nothing to do
    up: bool = False  # whether it has started: imports take longer than any step


class Pool:
    """Slots for envs, spread over worker processes (or in this process where `workers` is 0).

    Images come through shared memory, commands and answers through pipes.
    """

    def __init__(self, config: EnvConfig, cameras: Sequence[str], *, slots: int, workers: int, timeout: float) -> None:
        self._config, self._slots, self._timeout = config, slots, timeout
        self._context = process_context()
        sizes = config.spec().cameras
        self._buffers = {
            c: self._context.RawArray(ctypes.c_uint8, slots * sizes[c][0] * sizes[c][1] * 3) for c in cameras
        }
        self._images = shared_views(config, self._buffers, slots)
        self._local = EnvHost(config, self._images) if workers == 0 else None
        self._answers: deque[Answer] = deque()
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
        worker = _Worker(process, mine, slots)
        self._workers.append(worker)
        self._of_slot.update(dict.fromkeys(slots, worker))

    def idle_slots(self, busy: Collection[int]) -> list[int]:
        return [slot for slot in range(self._slots) if slot not in busy]

    def gather(self, slots: Sequence[int]) -> dict[str, np.ndarray]:
        """camera -> a copy of the images of `slots`, uint8 (B, H, W, 3)."""
        return {camera: images[list(slots)] for camera, images in self._images.items()}

    def send(self, command: Command) -> None:
        """Hands a command to the slot's worker. A worker that is gone is noticed by `receive`."""
        if self._local is not None:
            self._answers.append(self._local.handle(command))
            return
        worker = self._of_slot[command.slot]
        if not worker.pending:
            worker.heard = time.monotonic()
        worker.pending.append(command.slot)
        try:
            worker.pipe.send(command)
        except (BrokenPipeError, ConnectionResetError):
            worker.process.join(1)

    def receive(self) -> list[Answer | Lost]:
        """Waits until at least one worker has answered or is lost; returns all that has come."""
        if self._local is not None:
            done: list[Answer | Lost] = list(self._answers)
            self._answers.clear()
            return done
        busy = [worker for worker in self._workers if worker.pending]
        if not busy:
            return []
        found: list[Answer | Lost] = []
        while not found:
            multiprocessing.connection.wait([w.pipe for w in busy] + [w.process.sentinel for w in busy], timeout=1.0)
            for worker in busy:
                found += self._read(worker)
        return found

    def _read(self, worker: _Worker) -> list[Answer | Lost]:
        answers: list[Answer | Lost] = []
        try:
            while worker.pipe.poll():
                answer: Answer | None = worker.pipe.recv()
                worker.heard = time.monotonic()
                worker.up = True
                if answer is not None:  # None is its first sign of life
                    worker.pending.remove(answer.slot)
                    answers.append(answer)
        except (EOFError, ConnectionResetError):
            worker.process.join(1)
        if worker.pending and not worker.process.is_alive() and not worker.pipe.closed:
            return [*answers, self._replace(worker, _cause_of_death(worker.process.exitcode))]
        patience = self._timeout if worker.up else max(self._timeout, START_SECONDS)
        if worker.pending and time.monotonic() - worker.heard > patience:
            return [*answers, self._replace(worker, f"gave no answer for {patience:g} seconds")]
        return answers

    def _replace(self, worker: _Worker, reason: str) -> Lost:
        working_on = worker.pending[0]
        self._workers.remove(worker)
        _kill(worker)
        self._add_worker(worker.slots)
        return Lost(worker.slots, working_on, reason)

    def close(self) -> None:
        """Ends all workers: asks, waits a little, then kills."""
        if self._local is not None:
            self._local.close()
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _cause_of_death(exit_code: int) -> str:
    if exit_code == 1:
        return (
            "died with exit code 1 (its messages stand above; a script must start workers under "
            "`if __name__ == '__main__':`, or use workers=0)"
        )
    return f"died with exit code {exit_code}" + (" (killed; out of memory?)" if exit_code == -9 else "")


def _kill(worker: _Worker) -> None:
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    worker.process.close()
