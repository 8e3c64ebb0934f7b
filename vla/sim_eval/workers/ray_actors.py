"""Workers as actors of a Ray cluster.

`ray start --head` makes a cluster, `ray start --address=...` adds a machine to it. Every actor
takes one CPU of the cluster and must find the same packages as this process, for example the same
virtual environment; the folders of this process's module path are added to its own.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from vla.config import UserError
from vla.sim_eval.workers.supervisor import Death, Reply
from vla.sim_eval.workers.worker import ErrorText, MakeWork, Result, Worker


class RayError(UserError):
    """Ray is not installed, not running, or too small; the message names the remedy."""


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise RayError(
            "launcher: ray needs Ray, which is not installed: pip install 'vla[ray]'"
        ) from error
    return ray


@contextlib.contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Ray, connected to a running cluster; a connection that was there already is used and stays.

    Raises RayError if no cluster answers.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_port(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise RayError(
            f"ray_address: no Ray cluster answers at {address!r}: start one with `ray start "
            "--head`, or set ray_address to the host:port that it printed "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Raises OSError if nothing listens at host:port. Other kinds of addresses are left to Ray."""
    host, _, port = address.rpartition(":")
    # Ray itself would find out after minutes
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


@contextlib.contextmanager
def cluster(address: str, workers: int) -> Iterator[None]:
    """A connection to a cluster with a CPU for each worker. Raises RayError if it has fewer."""
    with connected(address) as ray:
        found = _cpus(ray)
        # Ray would wait for the missing CPUs for ever
        if workers > found:
            raise RayError(
                f"workers: {workers} Ray actors need a CPU each, the cluster has {found}: lower "
                "workers, or add machines with `ray start --address=...`"
            )
        yield


def cluster_cpus(address: str) -> int:
    """CPUs of all machines of the cluster, at least 1. Raises RayError."""
    with connected(address) as ray:
        return max(1, _cpus(ray))


def _cpus(ray: ModuleType) -> int:
    return int(ray.cluster_resources().get("CPU", 0))


class WorkerActor:
    """A `Worker` in an actor."""

    def __init__(self, path: Sequence[str], packed: bytes) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        self._packed = packed
        self._worker: Worker | None = None

    def hello(self) -> None:
        """The first sign of life."""

    def handle(self, packed: bytes) -> Result | ErrorText:
        if self._worker is None:
            import torch

            # as in `processes.worker_main`
            torch.set_num_threads(1)
            os.environ.setdefault("LP_NUM_THREADS", "0")
            # packed: Ray itself would unpack it before __init__ has made its modules known
            self._worker = Worker(pickle.loads(self._packed))
        return self._worker.handle(pickle.loads(packed))


class ActorHandle:
    """An actor and the answers that it still has to give; a `WorkerHandle`.

    Attributes:
        pending_refs: Ray's reference of an answer -> ticket of its request, as sent; None is the
            first sign of life.
    """

    def __init__(self, packed: bytes) -> None:
        import ray

        # max_restarts=0: an actor that Ray restarts has lost its episodes in silence
        actor_class: Any = ray.remote(num_cpus=1, max_restarts=0)(WorkerActor)
        self._actor = actor_class.remote(sys.path, packed)
        self.death: Death | None = None
        self.pending_refs: dict[Any, int | None] = {self._actor.hello.remote(): None}

    def send(self, ticket: int, request: Any) -> None:
        import ray

        # cloudpickle: classes of a script or a notebook travel with it
        ref = self._actor.handle.remote(ray.cloudpickle.dumps(request))
        self.pending_refs[ref] = ticket

    def poll(self) -> list[Reply]:
        import ray

        refs = list(self.pending_refs)
        ready = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        replies: list[Reply] = []
        for ref in refs:
            if ref not in ready:
                continue
            try:
                outcome = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                outcome = ErrorText(str(error))
            except ray.exceptions.RayError as error:
                self.death = Death(f"was lost: {_brief(error)}", from_outside=True)
                break
            replies.append(Reply(self.pending_refs.pop(ref), outcome))
        return replies

    def kill(self) -> None:
        import ray

        with contextlib.suppress(Exception):  # one that is gone cannot be ended
            ray.kill(self._actor)


class RayLauncher:
    """Starts actors on a cluster that is `connected`; a `WorkerLauncher`."""

    def __init__(self, make_work: MakeWork) -> None:
        import ray

        self._packed = ray.cloudpickle.dumps(make_work)

    def start(self) -> ActorHandle:
        return ActorHandle(self._packed)

    def wait(self, handles: Sequence[ActorHandle], timeout: float) -> None:
        import ray

        refs = [ref for handle in handles for ref in handle.pending_refs]
        ray.wait(refs, num_returns=1, timeout=timeout)

    def stop(self, handles: Sequence[ActorHandle]) -> None:
        for handle in handles:
            handle.kill()


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
