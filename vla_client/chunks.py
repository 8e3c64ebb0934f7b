"""The queue between answers and motors: chunks of actions that overlap and arrive late.

How many actions of a new chunk are past already is counted, not estimated: an estimate that is
wrong by two steps is a jump of the arm by two steps. (LeRobot skips by a running maximum of
latencies, which never forgets the first slow request.)

K actions per chunk, A action dimensions, n actions that are queued.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Request:
    """What the queue was when an observation was taken; `ChunkQueue.begin` makes it.

    Attributes:
        epoch: number of resets before it.
        executed: number of actions executed before it.
        observed_s: time of the observation.
    """

    epoch: int
    executed: int
    observed_s: float


@dataclass(frozen=True)
class DueAction:
    """One action of the queue.

    Attributes:
        action_A: float (A,), in robot units.
        due_s: when it is meant to be executed.
        age_s: how old its observation was when the answer arrived.
    """

    action_A: np.ndarray
    due_s: float
    age_s: float


class ChunkQueue:
    """Actions that wait for their turn. One thread may pop while another one merges.

    Action k of a chunk belongs at its observation's time plus k periods, and is dropped once it is
    half a period late: after a lag nothing is caught up, since a queue played fast is a fast robot.
    If the robot stood when a chunk arrived, nothing has moved, and its times count from the
    first action that is popped.

    Args:
        control_hz: actions per second.
    """

    def __init__(self, control_hz: float) -> None:
        if not (math.isfinite(control_hz) and control_hz > 0):
            raise ValueError(f"control_hz={control_hz}, expected a positive number")
        self.period_s = 1 / control_hz
        self.dropped_late = 0
        """Actions that were not executed since their time had passed."""
        self.discarded_chunks = 0
        """Answers that came after a reset, or of which every action was past."""
        self._lock = threading.Lock()
        self._actions: deque[np.ndarray] = deque()
        self._first_due_s: float | None = None
        self._age_s = 0.0
        self._epoch = 0
        self._executed = 0

    def __len__(self) -> int:
        return len(self._actions)

    def begin(self, now_s: float) -> Request:
        """To be called when an observation is taken that will be sent."""
        with self._lock:
            return Request(self._epoch, self._executed, now_s)

    def merge(self, request: Request, actions_KA: np.ndarray, now_s: float) -> int:
        """Replaces the queue by the rest of a new chunk; returns how many actions were past.

        Args:
            request: what `begin` returned for the chunk's observation.
            actions_KA: float (K, A).
            now_s: time of arrival.
        """
        with self._lock:
            if request.epoch != self._epoch:
                self.discarded_chunks += 1
                return len(actions_KA)
            past = self._executed - request.executed
            rest = [np.array(action_A) for action_A in actions_KA[past:]]
            if not rest:
                # what is queued is older and still the best there is
                self.discarded_chunks += 1
                return len(actions_KA)
            stood = not self._actions
            self._first_due_s = None if stood else request.observed_s + past * self.period_s
            self._actions = deque(rest)
            self._age_s = now_s - request.observed_s
            return past

    def pop(self, now_s: float) -> DueAction | None:
        """The action to execute now, or None: the queue is empty, or its next action is not due."""
        with self._lock:
            half_s = self.period_s / 2
            if self._actions and self._first_due_s is None:
                self._first_due_s = now_s
            while self._actions:
                assert self._first_due_s is not None
                due_s = self._first_due_s
                # a thousandth of a period: sums of periods are rounded
                slack_s = half_s + 1e-3 * self.period_s
                if now_s < due_s - slack_s:
                    return None
                action_A = self._actions.popleft()
                self._first_due_s = due_s + self.period_s
                if now_s <= due_s + slack_s:
                    self._executed += 1
                    return DueAction(action_A, due_s, self._age_s)
                self.dropped_late += 1
            return None

    def prefix(self) -> np.ndarray:
        """Float (n, A): what is queued, for a server that continues it. (0, 0) if nothing is."""
        with self._lock:
            return np.stack(self._actions) if self._actions else np.zeros((0, 0), np.float32)

    def reset(self) -> None:
        """Empties the queue. Answers to requests that began before are discarded."""
        with self._lock:
            self._epoch += 1
            self._actions.clear()
            self._first_due_s = None


class LatencyEstimate:
    """How many steps an answer takes, for deciding when to ask: the 95 % quantile of the last 100.

    Args:
        control_hz: actions per second.
        window: number of latencies that count.
        warm_up: first requests that do not count, since servers compile and load in them.
    """

    def __init__(self, control_hz: float, *, window: int = 100, warm_up: int = 2) -> None:
        self.control_hz = control_hz
        self._latencies_s: deque[float] = deque(maxlen=window)
        self._warm_up_left = warm_up

    def add(self, latency_s: float) -> None:
        """Counts one answer."""
        if self._warm_up_left > 0:
            self._warm_up_left -= 1
        else:
            self._latencies_s.append(latency_s)

    @property
    def seconds(self) -> float:
        """The quantile in seconds; 0 before anything was measured."""
        # the value itself that 95 % do not exceed: between two values none was measured
        ordered = sorted(self._latencies_s)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0.0

    @property
    def steps(self) -> int:
        """Steps that will probably be executed while a request is out."""
        return math.ceil(self.seconds * self.control_hz - 1e-9)
