"""Slots for envs, and the workers that hold them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollouts.env_host import Answer, Command, EnvHost, Failed
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.sim_eval.workers.launchers import open_supervisor
from vla.sim_eval.workers.processes import process_context
from vla.sim_eval.workers.supervisor import Answered, Death, Lost, Raised, Supervisor
from vla.sim_eval.workers.worker import MakeWork

Images = dict[str, np.ndarray]
"""camera -> uint8 (slots, H, W, 3)."""
Sizes = dict[str, tuple[int, int]]
"""camera -> height, width."""
Buffers = dict[str, Any]
"""camera -> shared memory."""


@dataclass(frozen=True)
class LostEnvs:
    """A worker died or hung. Its envs are gone; a new worker has taken its place.

    Attributes:
        slots: the slots that the worker held.
        working_on: the slot whose command it had in hand.
        reason: completes "the worker process ...".
        from_outside: it was ended from outside (a signal, a node of a cluster), so its episode may
            not be the cause.
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

    def gather(self, slots: Sequence[int]) -> Images:
        """camera -> a copy of the images of `slots`, uint8 (B, H, W, 3)."""


@contextlib.contextmanager
def open_env_workers(
    config: EnvConfig,
    cameras: Sequence[str],
    *,
    slots: int,
    workers: int,
    settings: RolloutSettings,
) -> Iterator[EnvWorkers]:
    """`slots` for envs, spread over `workers` (0: this process); closed on the way out.

    Raises UserError if Ray is asked for and is not installed, not running, or has too few CPUs.
    """
    sizes = {camera: config.spec().cameras[camera] for camera in cameras}
    if workers == 0:
        with contextlib.closing(InlineEnvWorkers(config, _empty_images(sizes, slots))) as inline:
            yield inline
        return
    if settings.launcher == "local":
        buffers = _shared_buffers(sizes, slots)
        images = shared_views(config, buffers, slots)
        make_host: MakeWork = functools.partial(HostWithSharedImages, config, buffers, slots)
    else:
        # no memory is shared between machines
        images = _empty_images(sizes, slots)
        make_host = functools.partial(HostThatSendsImages, config, tuple(cameras))
    with open_supervisor(
        settings.launcher,
        make_host,
        workers=workers,
        timeout=settings.timeout,
        ray_address=settings.ray_address,
    ) as supervisor:
        yield SupervisedEnvWorkers(supervisor, images, slots=slots, workers=workers)


class InlineEnvWorkers:
    """All slots in this process: commands are carried out as they are sent."""

    def __init__(self, config: EnvConfig, images: Images) -> None:
        self._images = images
        self._host = EnvHost(config, images)
        self._answers: list[Answer | LostEnvs] = []

    def send(self, command: Command) -> None:
        self._answers.append(self._host.handle(command))

    def receive(self) -> list[Answer | LostEnvs]:
        answers = self._answers
        self._answers = []
        return answers

    def gather(self, slots: Sequence[int]) -> Images:
        return _rows(self._images, slots)

    def close(self) -> None:
        self._host.close()


class SupervisedEnvWorkers:
    """Slots spread over supervised workers: slot s belongs to worker s % workers."""

    def __init__(
        self,
        supervisor: Supervisor,
        images: Images,
        *,
        slots: int,
        workers: int,
    ) -> None:
        self._supervisor = supervisor
        self._images = images
        self._slots = slots
        self._workers = workers

    def send(self, command: Command) -> None:
        self._supervisor.send(command.slot % self._workers, command)

    def receive(self) -> list[Answer | LostEnvs]:
        return [self._answer(event) for event in self._supervisor.receive()]

    def _answer(self, event: Answered | Raised | Lost) -> Answer | LostEnvs:
        if isinstance(event, Raised):
            # not the env, whose errors come as `Failed`: the worker could not be set up
            return Failed(event.request.slot, f"the worker raised\n{event.error}")
        if isinstance(event, Lost):
            of_worker = range(event.worker, self._slots, self._workers)
            in_hand = event.requests[0]
            return LostEnvs(
                slots=tuple(of_worker),
                working_on=in_hand.slot,
                reason=_reason(event.death),
                from_outside=event.death.from_outside,
            )
        answer, sent_images = event.value
        for camera, image in sent_images.items():
            self._images[camera][event.request.slot] = image
        return answer

    def gather(self, slots: Sequence[int]) -> Images:
        return _rows(self._images, slots)


def _reason(death: Death) -> str:
    """The death in words, with what its exit code often means."""
    if death.exit_code == 1:
        return (
            f"{death.reason} (its messages stand above; a script must start workers under "
            "`if __name__ == '__main__':`, or use workers=0)"
        )
    # SIGKILL, which is also the system's answer to a lack of memory
    if death.exit_code == -9:
        return f"{death.reason} (killed; out of memory?)"
    return death.reason


# --- pictures: in memory that is shared, or with the answers -----------------------------------


class HostWithSharedImages:
    """An `EnvHost` in a worker of this machine. Its pictures lie in memory that the parent sees."""

    def __init__(self, config: EnvConfig, buffers: Buffers, slots: int) -> None:
        images = shared_views(config, buffers, slots)
        self._host = EnvHost(config, images)

    def __call__(self, command: Command) -> tuple[Answer, Images]:
        return self._host.handle(command), {}

    def close(self) -> None:
        self._host.close()


class HostThatSendsImages:
    """An `EnvHost` on another machine. Its pictures, uint8 (H, W, 3), travel with its answers."""

    def __init__(self, config: EnvConfig, cameras: tuple[str, ...]) -> None:
        self._images: dict[str, dict[int, np.ndarray]] = {}  # camera -> slot -> picture
        for camera in cameras:
            self._images[camera] = {}
        self._host = EnvHost(config, self._images)

    def __call__(self, command: Command) -> tuple[Answer, Images]:
        answer = self._host.handle(command)
        # there are pictures only if the robot waits for an action
        sent: Images = {}
        for camera, of_slot in self._images.items():
            if command.slot in of_slot:
                sent[camera] = of_slot.pop(command.slot)
        return answer, sent

    def close(self) -> None:
        self._host.close()


def _empty_images(sizes: Sizes, slots: int) -> Images:
    images: Images = {}
    for camera, (height, width) in sizes.items():
        images[camera] = np.zeros((slots, height, width, 3), np.uint8)
    return images


def _shared_buffers(sizes: Sizes, slots: int) -> Buffers:
    """Room for the pictures of all slots, which worker processes can open."""
    context = process_context()
    buffers: Buffers = {}
    for camera, (height, width) in sizes.items():
        # without a lock: only the worker that holds a slot writes there, and only while it is asked
        buffers[camera] = context.RawArray(ctypes.c_uint8, slots * height * width * 3)
    return buffers


def shared_views(config: EnvConfig, buffers: Buffers, slots: int) -> Images:
    """The images that lie in shared memory."""
    images: Images = {}
    for camera, buffer in buffers.items():
        height, width = config.spec().cameras[camera]
        pixels = np.frombuffer(buffer, dtype=np.uint8)
        images[camera] = pixels.reshape(slots, height, width, 3)
    return images


def _rows(images: Images, slots: Sequence[int]) -> Images:
    rows = list(slots)
    # a list of rows copies: workers go on to write into the originals
    return {camera: of_slots[rows] for camera, of_slots in images.items()}
