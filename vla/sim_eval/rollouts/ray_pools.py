"""Workers as actors of a Ray cluster: `ray start --head` makes one, `ray start --address=...` adds a machine.

Every actor takes one CPU of the cluster and must find the same packages as this process, for example the same virtual
environment; the folders of this process's module path are added to its own. Pictures come through Ray's object
store. An actor that is lost, alone or with its machine, is replaced.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from vla.config import UserError
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollouts.env_pool import Assignment, LostEnvs
from vla.sim_eval.rollouts.env_worker import Answer, Command, EnvHost, Failed, Ready
from vla.sim_eval.rollouts.job_pool import Died, Finished, Raised, Worker


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

    Raises RayError where no cluster answers.
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
            f"ray_address: no Ray cluster answers at {address!r}: start one with `ray start --head`, or set ray_address "
            f"to the host:port that it printed ({' '.join(str(error).split())[:200]})"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Raises OSError where nobody listens at host:port, which Ray itself would find out after minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


@contextlib.contextmanager
def cluster(address: str, workers: int) -> Iterator[None]:
    """A connection to a cluster that has a CPU for each of `workers`. Raises RayError where it has fewer."""
    with connected(address) as ray:
        if workers > (found := _cpus(ray)):
            raise RayError(
                f"workers: {workers} Ray actors need a CPU each, the cluster has {found}: lower workers, or add machines "
                "with `ray start --address=...`"
            )
        yield


def cluster_cpus(address: str) -> int:
    """CPUs of all machines of the cluster, at least 1. Raises RayError."""
    with connected(address) as ray:
        return max(1, _cpus(ray))


def _cpus(ray: ModuleType) -> int:
    return int(ray.cluster_resources().get("CPU", 0))


class _Remote:
    """Base of what runs in an actor. What it works with comes packed: to unpack it, the modules must be found first."""

    def __init__(self, path: Sequence[str], packed: bytes) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        self._packed = packed

    def hello(self) -> None:
        """The first sign of life."""

    def unpack(self) -> Any:
        import torch

        torch.set_num_threads(1)
        return pickle.loads(self._packed)


class EnvActor(_Remote):
    """An `EnvHost` in an actor; it hands over its pictures beside its answers."""

    def __init__(self, path: Sequence[str], packed: bytes) -> None:
        super().__init__(path, packed)
        self._host: EnvHost | None = None

    def handle(self, command: Command) -> tuple[Answer, dict[str, np.ndarray]]:
        """What `EnvHost.handle` answers, and camera -> uint8 (H, W, 3) where the robot waits for an action."""
        if self._host is None:
            config, cameras = self.unpack()
            self._images: dict[str, Any] = {camera: {} for camera in cameras}  # slot -> picture
            self._host = EnvHost(config, self._images)
        answer = self._host.handle(command)
        images = {
            camera: images.pop(command.slot) for camera, images in self._images.items() if images
        }
        return answer, images


class WorkActor(_Remote):
    """A `Worker` in an actor."""

    def __init__(self, path: Sequence[str], packed: bytes) -> None:
        super().__init__(path, packed)
        self._worker: Worker | None = None

    def do(self, job: bytes) -> Finished | Raised:
        if self._worker is None:
            self._worker = Worker(self.unpack())
        return self._worker.do(pickle.loads(job))


def _start(kind: type, what: Any) -> Any:
    """A new actor of a kind."""
    import ray

    remote: Any = ray.remote(num_cpus=1, max_restarts=0)(kind)
    return remote.remote(sys.path, ray.cloudpickle.dumps(what))


def _end(actor: Any) -> None:
    import ray

    with contextlib.suppress(Exception):  # whoever is gone cannot be ended
        ray.kill(actor)


class _Worker:
    """An actor, what it has to do, and what it pending_refs."""

    def __init__(self, actor: Any, slots: tuple[int, ...]) -> None:
        self.actor, self.assignment = actor, Assignment(slots)
        self.pending_refs: dict[Any, int | None] = {
            actor.hello.remote(): None
        }  # reference of an answer -> slot, as sent


class RayEnvWorkers:
    """Slots for envs, spread over actors; a `EnvWorkers`."""

    def __init__(
        self, config: EnvConfig, cameras: Sequence[str], *, slots: int, workers: int, timeout: float
    ) -> None:
        self._what, self._timeout = (config, tuple(cameras)), timeout
        sizes = config.spec().cameras
        self._images = {
            camera: np.zeros((slots, *sizes[camera], 3), np.uint8) for camera in cameras
        }
        self._workers = [self._add(tuple(range(rank, slots, workers))) for rank in range(workers)]

    def _add(self, slots: tuple[int, ...]) -> _Worker:
        return _Worker(_start(EnvActor, self._what), slots)

    def gather(self, slots: Sequence[int]) -> dict[str, np.ndarray]:
        return {camera: images[list(slots)] for camera, images in self._images.items()}

    def send(self, command: Command) -> None:
        worker = self._workers[command.slot % len(self._workers)]
        worker.assignment.sent(command.slot)
        worker.pending_refs[worker.actor.handle.remote(command)] = command.slot

    def receive(self) -> list[Answer | LostEnvs]:
        import ray

        found: list[Answer | LostEnvs] = []
        while not found and (
            refs := [
                ref
                for worker in self._workers
                if worker.assignment.pending
                for ref in worker.pending_refs
            ]
        ):
            ray.wait(refs, num_returns=1, timeout=1.0)
            ready = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0])
            for rank in range(len(self._workers)):
                found += self._read(rank, ready)
        return found

    def _read(self, rank: int, ready: Collection[Any]) -> list[Answer | LostEnvs]:
        import ray

        worker = self._workers[rank]
        answers: list[Answer | LostEnvs] = []
        for ref in [ref for ref in worker.pending_refs if ref in ready]:
            slot = worker.pending_refs[ref]
            try:
                found = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                return [
                    *answers,
                    Failed(worker.assignment.pending[0], f"the Ray actor raised\n{error}"),
                ]
            except ray.exceptions.RayError as error:
                return [
                    *answers,
                    self._replace(rank, f"was lost: {_brief(error)}", from_outside=True),
                ]
            del worker.pending_refs[ref]
            worker.assignment.answered(slot)
            if slot is None:
                continue
            answer, images = found
            for camera, image in images.items() if isinstance(answer, Ready) else ():
                self._images[camera][slot] = image
            answers.append(answer)
        if reason := worker.assignment.overdue(self._timeout):
            answers.append(self._replace(rank, reason, from_outside=False))
        return answers

    def _replace(self, rank: int, reason: str, *, from_outside: bool) -> LostEnvs:
        worker = self._workers[rank]
        _end(worker.actor)
        self._workers[rank] = self._add(worker.assignment.slots)
        return LostEnvs(worker.assignment.slots, worker.assignment.pending[0], reason, from_outside)

    def close(self) -> None:
        for worker in self._workers:
            _end(worker.actor)


class RayJobPool:
    """Actors that do jobs; a `JobPool`."""

    def __init__(self, make_work: Callable[[], Callable[[Any], Any]], workers: int) -> None:
        self._make_work = make_work
        self._actors = [_start(WorkActor, make_work) for _ in range(workers)]
        self._owed: dict[int, Any] = {}

    def submit(self, worker: int, job: Any) -> None:
        import ray

        self._owed[worker] = self._actors[worker].do.remote(ray.cloudpickle.dumps(job))

    def wait(self, busy: Collection[int]) -> list[tuple[int, Finished | Raised | Died]]:
        import ray

        refs = [self._owed[worker] for worker in busy]
        ray.wait(refs, num_returns=1)
        ready = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        return [(worker, self._receive(worker)) for worker in busy if self._owed[worker] in ready]

    def _receive(self, worker: int) -> Finished | Raised | Died:
        import ray

        try:
            return ray.get(self._owed[worker])
        except ray.exceptions.RayTaskError as error:
            return Raised(str(error))
        except ray.exceptions.RayError as error:
            _end(self._actors[worker])
            self._actors[worker] = _start(WorkActor, self._make_work)
            return Died(f"was lost: {_brief(error)}")

    def close(self) -> None:
        for actor in self._actors:
            _end(actor)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


__all__ = ["RayEnvWorkers", "RayError", "RayJobPool", "cluster", "cluster_cpus", "connected"]
