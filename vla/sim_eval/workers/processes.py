"""Workers as processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from vla.sim_eval.workers.supervisor import Death, Reply
from vla.sim_eval.workers.worker import MakeWork, Worker

STOP = "stop"  # in place of (ticket, request)
STOP_SECONDS = 3.0  # for all workers together to end by themselves
SIGNALS_FROM_OUTSIDE = (-9, -15)  # SIGKILL, which not every system names, and SIGTERM


def process_context() -> Any:
    """The multiprocessing context of worker processes.

    Where the system can, they are forks of a clean server process that has imported this package
    once: a worker then starts in milliseconds, not in the seconds that the imports take.
    """
    # never forks of this process: rendering contexts, CUDA state and threads do not survive one
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vla.sim_eval"])
    return context


class ProcessHandle:
    """A worker process and the pipe to it; a `WorkerHandle`."""

    def __init__(self, context: Any, make_work: MakeWork) -> None:
        self.death: Death | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker_main, args=(theirs, make_work), daemon=True)
        self.process.start()
        # else this process would hold both ends, and the pipe of a dead worker would never end
        theirs.close()

    def send(self, ticket: int, request: Any) -> None:
        try:
            self.pipe.send((ticket, request))
        except (BrokenPipeError, ConnectionResetError):
            # the system closes the pipe a moment before it reports the death
            self.process.join(1)

    def poll(self) -> list[Reply]:
        # asked before reading: what a dead process has sent lies in the pipe by then
        ended = not self.process.is_alive()
        replies: list[Reply] = []
        try:
            while self.pipe.poll():
                replies.append(self.pipe.recv())
        except (EOFError, OSError):  # OSError: it was killed in the middle of a message
            self.process.join(1)
            ended = True
        if ended:
            self.death = self._cause_of_death()
        return replies

    def _cause_of_death(self) -> Death:
        code = self.process.exitcode
        if code is None:  # it lives, but nothing can be said to it any more
            return Death("closed its pipe")
        return Death(f"died with exit code {code}", code, code in SIGNALS_FROM_OUTSIDE)

    def ask_to_stop(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(STOP)
        # at once: a worker whose answer is no longer read would wait for room in the pipe
        self.pipe.close()

    def kill(self) -> None:
        # no gentler signal: a simulator that hangs in C answers to none that can be caught
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


class ProcessLauncher:
    """Starts worker processes; a `WorkerLauncher`."""

    def __init__(self, make_work: MakeWork) -> None:
        self._context = process_context()
        self._make_work = make_work

    def start(self) -> ProcessHandle:
        return ProcessHandle(self._context, self._make_work)

    def wait(self, handles: Sequence[ProcessHandle], timeout: float) -> None:
        pipes = [handle.pipe for handle in handles]
        # not by the pipe alone: a child of the worker may hold it open beyond its death
        sentinels = [handle.process.sentinel for handle in handles]
        multiprocessing.connection.wait([*pipes, *sentinels], timeout=timeout)

    def stop(self, handles: Sequence[ProcessHandle]) -> None:
        """Asks them all, waits a little, then kills."""
        for handle in handles:
            handle.ask_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for handle in handles:
            handle.process.join(max(0.0, deadline - time.monotonic()))
            handle.kill()


def worker_main(pipe: Connection, make_work: MakeWork) -> None:
    """Body of a worker process: works until the parent says stop, closes the pipe or dies."""
    import torch

    # Ctrl-C reaches all processes of a terminal; it is for the parent, which then ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # there is a worker for each core: more threads would wait for each other, also those with
    # which Mesa draws (0: the caller's own thread; the pictures are the same)
    torch.set_num_threads(1)
    os.environ.setdefault("LP_NUM_THREADS", "0")
    worker = Worker(make_work)
    # the parent may close the pipe, or die, while an answer is on its way
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(Reply(None, None))  # up and running
        for ticket, request in iter(pipe.recv, STOP):
            pipe.send(Reply(ticket, worker.handle(request)))
    worker.close()
