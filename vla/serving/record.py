"""What robots saw and were sent, as a dataset, written by a thread of its own.

Nobody waits for the disk: what comes is put into a queue of bounded size, and what finds no room
there is left out and counted. The recording of an episode ends at such a gap, and a new one begins
behind it.

B robots, K actions per answer, A action dimensions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.common.foreign.json_files import read_json
from vla.data import DataError, DatasetWriter, Episode, schema
from vla.data.episode import Scalar
from vla.data.episode_recorder import EpisodeRecorder
from vla.data.extras import ACTION_CHUNK, VALID_ACTIONS
from vla.data.format import RECORDED
from vla.serving.metrics import Metrics
from vla.serving.observations import RobotInputs
from vla.serving.session import Session
from vla.types import Spec

log = logging.getLogger("vla.serving")
WAITING_BYTES = 64 * 2**20
"""Of observations that wait for the thread."""
HELD_BYTES = 128 * 2**20
"""Of episodes that run, as PNG files. Beyond it the largest is written, and goes on as another."""
LONGEST_S = 300.0
"""Seconds after which an episode that still runs is written, and goes on as another: a kill loses
no more."""
SECONDS_PER_COMMIT = 2.0
"""How long a finished episode may wait for others: a commit costs about the same for several."""
RECEIVED_S = "received_s"
"""Column: seconds from the episode's first observation to this one, by the server's clock."""
SERVED = "served"
"""Key of the metadata by which such a dataset is known."""


@dataclass(frozen=True, eq=False)
class Sent:
    """An observation of B robots, and what they were sent.

    Attributes:
        session: whose robots they are.
        episodes: of each robot, the number of its episode in the session.
        read: the inputs; called by the thread that writes.
        actions: (n, A) of each robot; the first is executed at the observation's step.
        received: when it came in, in seconds of `time.perf_counter`.
        step: the control step by the client's count.
        size: bytes of the inputs.
    """

    session: Session
    episodes: Sequence[int]
    read: Callable[[], RobotInputs]
    actions: Sequence[np.ndarray]
    received: float
    step: int | None
    size: int


@dataclass(frozen=True)
class _Gap:
    """Steps of a session were left out here."""

    session: Session


@dataclass(frozen=True)
class _End:
    """The robots of a session are gone."""

    session: Session


@dataclass
class _Running:
    """An episode that is being recorded.

    Attributes:
        name: its number in the session, and its instruction: with another one it is over.
        info: what is noted with it.
        steps: what there is of it.
        first: when its first observation came in.
        size: bytes of `steps`.
        last_step: the control step of its last observation, if the client counts.
    """

    name: tuple[int, str]
    info: dict[str, Scalar]
    steps: EpisodeRecorder
    first: float
    size: int = 0
    last_step: int | None = None


class Recorder:
    """Writes a dataset of what a server does, one episode of a robot after the other.

    Args:
        folder: of the dataset; one that a server has made is continued.
        spec: of the policy.
        horizon: K, the most actions of an answer.
        policy: what it is called, noted with each episode.

    Raises:
        DataError: the folder holds another dataset, or another process writes there.
        OSError: the disk is full or fails.
    """

    def __init__(
        self, folder: str | Path, spec: Spec, *, horizon: int, policy: str, metrics: Metrics
    ) -> None:
        self.folder = Path(folder)
        self._spec = spec
        self._horizon = horizon
        self._policy = policy
        self._metrics = metrics
        self._writer = _opened(self.folder, spec, horizon)
        # of the thread alone
        self._running: dict[tuple[int, int], _Running] = {}
        self._cut_off: dict[tuple[int, int], tuple[int, str]] = {}
        self._finished: list[Episode] = []
        self._finished_size = 0
        self._committed = time.monotonic()
        # of all threads, under the lock of `_changed`
        self._changed = threading.Condition()
        self._items: deque[Sent | _Gap | _End] = deque()
        self._gaps: set[int] = set()
        self._waiting = 0
        self._is_closing = False
        self._has_failed = False
        self._has_warned = False
        self._thread = threading.Thread(target=self._run, name="vla-record", daemon=True)
        self._thread.start()

    # --- what comes in, from any thread --------------------------------------------------------

    def add(self, sent: Sent) -> None:
        """One more step of the robots of a session. Never waits for the disk."""
        with self._changed:
            if self._is_closing or self._has_failed:
                return
            if self._waiting + sent.size > WAITING_BYTES and self._items:
                self._leave_out(sent)
                return
            self._waiting += sent.size
            self._gaps.discard(sent.session.key)
            self._items.append(sent)
            self._changed.notify()

    def end(self, session: Session) -> None:
        """The episodes of these robots are over."""
        with self._changed:
            if not self._has_failed:
                self._items.append(_End(session))
                self._changed.notify()

    def close(self) -> None:
        """Writes what there is, also of episodes that still run, and ends the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _leave_out(self, sent: Sent) -> None:
        self._metrics.add("vla_unrecorded_steps_total", len(sent.actions), reason="behind")
        # one mark is enough for a gap, so that marks do not fill the memory in their turn
        if sent.session.key not in self._gaps:
            self._gaps.add(sent.session.key)
            self._items.append(_Gap(sent.session))
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "record: pictures come faster than they are written into %s; the robots are "
                "served, and some of their steps are not recorded "
                "(vla_unrecorded_steps_total)",
                self.folder,
            )

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_done():
                item = self._next()
                if item is not None:
                    self._take(item)
                if time.monotonic() - self._committed > SECONDS_PER_COMMIT:
                    self._commit()
            for place in list(self._running):
                self._finish(place)
            self._commit()
        except OSError as error:
            self._give_up(error.strerror or str(error))
        except Exception as error:  # a fault of ours must not end the service
            log.error("record: internal error", exc_info=error)
            self._give_up(f"{type(error).__name__}: {error}")
        finally:
            self._writer.close()

    def _is_done(self) -> bool:
        with self._changed:
            return self._is_closing and not self._items

    def _next(self) -> Sent | _Gap | _End | None:
        """What comes next; None if nothing does for a while."""
        with self._changed:
            if not self._items and not self._is_closing:
                self._changed.wait(SECONDS_PER_COMMIT)
            if not self._items:
                return None
            item = self._items.popleft()
            if isinstance(item, Sent):
                self._waiting -= item.size
            return item

    def _take(self, item: Sent | _Gap | _End) -> None:
        if isinstance(item, Sent):
            self._step(item)
            return
        key = item.session.key
        for place in [place for place in self._running if place[0] == key]:
            if isinstance(item, _End):
                self._finish(place)
            else:
                self._cut(place)
        if isinstance(item, _End):
            for place in [place for place in self._cut_off if place[0] == key]:
                del self._cut_off[place]

    def _step(self, sent: Sent) -> None:
        try:
            inputs = sent.read()
        except UserError:
            # it was not looked at before: the robot was sent an action of an earlier chunk
            self._metrics.add("vla_unrecorded_steps_total", len(sent.actions), reason="wrong")
            self._take(_Gap(sent.session))
            return
        key = sent.session.key
        for place in [p for p in self._running if p[0] == key and p[1] >= len(sent.actions)]:
            self._finish(place)
        for row, actions_nA in enumerate(sent.actions):
            running = self._running_of(sent, row, inputs.instructions[row])
            self._add(running, sent, row, inputs, actions_nA)
            if sent.received - running.first > LONGEST_S:
                self._cut((key, row))
        self._metrics.add("vla_recorded_steps_total", len(sent.actions))
        self._keep_within_memory()

    def _running_of(self, sent: Sent, row: int, instruction: str) -> _Running:
        """The episode of a robot, a new one if it starts here."""
        place = (sent.session.key, row)
        name = (sent.episodes[row], instruction)
        running = self._running.get(place)
        if running is not None and running.name == name:
            return running
        if running is not None:
            self._finish(place)
        info: dict[str, Scalar] = {
            "policy": self._policy,
            "session": sent.session.name,
            "robot": row,
            "began_unix_s": time.time() - (time.perf_counter() - sent.received),
            # whether the episode before is the first part of this one
            "goes_on": self._cut_off.pop(place, None) == name,
        }
        steps = EpisodeRecorder(list(self._spec.cameras))
        self._running[place] = running = _Running(name, info, steps, sent.received)
        return running

    def _add(
        self,
        running: _Running,
        sent: Sent,
        row: int,
        inputs: RobotInputs,
        actions_nA: np.ndarray,
    ) -> None:
        steps = running.steps
        if running.last_step is not None and sent.step is not None and self._horizon > 1:
            # so many of the chunk before were executed, if the client counts
            valid = steps.extras[VALID_ACTIONS]
            valid[-1] = min(valid[-1], max(1, sent.step - running.last_step))
        running.last_step = sent.step
        seen = {
            "images": {camera: image[row] for camera, image in inputs.images.items()},
            "state": inputs.state[row],
        }
        steps.add_observation(seen, inputs.instructions[row])
        extras: dict[str, Any] = {RECEIVED_S: np.float32(sent.received - running.first)}
        if self._horizon > 1:
            # what is played until the next observation has no frame, and stands beside this one
            missing = self._horizon - len(actions_nA)
            chunk_KA = np.pad(actions_nA, ((0, missing), (0, 0)), mode="edge")
            extras |= {ACTION_CHUNK: chunk_KA.ravel(), VALID_ACTIONS: len(actions_nA)}
        steps.add_action(actions_nA[0], 0.0, False, **extras)
        running.size += sum(len(images[-1]) for images in steps.images.values())
        running.size += steps.states[-1].nbytes + actions_nA.nbytes

    def _finish(self, place: tuple[int, int]) -> None:
        """The episode is over, and waits to be written."""
        running = self._running.pop(place)
        self._finished.append(running.steps.episode(terminated=False, info=running.info))
        self._finished_size += running.size

    def _cut(self, place: tuple[int, int]) -> None:
        """The episode is over for the recording alone: what comes next of it is another one."""
        self._cut_off[place] = self._running[place].name
        self._finish(place)

    def _keep_within_memory(self) -> None:
        held = self._finished_size + sum(running.size for running in self._running.values())
        if held > HELD_BYTES:
            largest = max(self._running, key=lambda place: self._running[place].size)
            if self._running[largest].size > self._finished_size:
                self._cut(largest)
            self._commit()

    def _commit(self) -> None:
        """Writes what is finished. Raises OSError if the disk is full or fails."""
        # taken out first: what cannot be written must not be tried for ever
        episodes, self._finished, self._finished_size = self._finished, [], 0
        self._committed = time.monotonic()
        try:
            self._writer.add_episodes(episodes)
        except DataError:
            # none was written; only one of them need be wrong
            for episode in episodes:
                self._write_alone(episode)

    def _write_alone(self, episode: Episode) -> None:
        try:
            self._writer.add_episode(episode)
        except DataError as error:
            self._metrics.add("vla_unrecorded_steps_total", len(episode), reason="wrong")
            log.warning("record: %s", error)

    def _give_up(self, reason: str) -> None:
        with self._changed:
            self._has_failed = True
            self._items.clear()
        self._running.clear()
        log.warning(
            "record: ends, since %s: %s; what was written before is whole, and the robots are "
            "served on",
            self.folder,
            reason,
        )


def _opened(folder: Path, spec: Spec, horizon: int) -> DatasetWriter:
    """A writer that begins a dataset, or continues one of a server."""
    exists = (folder / schema.INFO).exists()
    served = {"horizon": horizon}
    if exists:
        metadata = folder / schema.METADATA
        noted = read_json(metadata) if metadata.exists() else {}
        found = noted.get(SERVED) if isinstance(noted, dict) else None
        if not isinstance(found, dict):
            raise DataError(
                f"record: {folder} holds a dataset that no server has recorded; name another folder"
            )
        if found != served:
            raise DataError(
                f"record: {folder} holds answers of {found.get('horizon')} actions, this policy "
                f"gives {horizon}; name another folder"
            )
    # zeros in the place of what nobody knows, which readers show as unknown
    unknown = {"unrecorded": sorted(RECORDED)}
    return DatasetWriter(folder, spec, metadata={SERVED: served, "made": unknown}, resume=exists)


__all__ = ["RECEIVED_S", "Recorder", "Sent"]
