"""Stands between a policy and the motors: checks every action, and holds the robot in silence.

This is no safety-rated function. It runs in Python on a computer that may hang; the emergency stop
and the limits of the robot's own controller stay in charge.

A action dimensions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from vla_client.errors import GovernorError
from vla_client.governor_config import GovernorConfig
from vla_client.motion import Judgement, held, judge, positions, rejected, well_formed

log = logging.getLogger("vla_client.governor")

DISARMED, RUNNING, HOLDING, STOPPED = "DISARMED", "RUNNING", "HOLDING", "STOPPED"
HOLD_AT_ONCE = frozenset(("shape", "jump", "no_measurement", "limits", "workspace", "rate"))
"""Reasons of a rejection that mean a fault. An action that is only late is left out."""


def steady_clock() -> float:
    """Seconds that never go back, and go on while the computer sleeps, where the system can."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


@dataclass(frozen=True)
class Status:
    """For a display: the state, why it is so, how often what happened, and the last command."""

    state: str
    reason: str
    counts: dict[str, int]
    sent_A: np.ndarray | None
    silence_s: float


class Governor:
    """All commands to a robot go through it: actions by `command`, and holding by its watchdog.

    Each action passes, in this order: the deadman's switch, shape and finiteness, its time, the
    jump, limits and workspace, the rate. What is rejected is not sent; what is changed is counted
    and logged. The first positions of a run are reached from the measured ones by a ramp.

    A thread watches the time while the governor is entered as a context: after `hold_after` periods
    without a valid action it sends the command that moves nothing, and again every period; after
    `stop_after_s` it calls `stop` once, and nothing moves until `arm`. Leaving the context by an
    exception, an interrupt of the keyboard included, holds and stops at once.

    Args:
        config: the limits.
        send: sends a command float64 (A,) to the robot. Calls never overlap.
        stop: brings the robot to rest by its own means; called once per stop.
        enable: whether the deadman's switch is pressed; called from two threads.
        on_clear: called when queued actions must not be played any more.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        config: GovernorConfig,
        send: Callable[[np.ndarray], object],
        *,
        stop: Callable[[], object] | None = None,
        enable: Callable[[], bool] | None = None,
        on_clear: Callable[[], object] | None = None,
        clock: Callable[[], float] = steady_clock,
    ) -> None:
        self.config = config
        self.bounds = config.bounds()
        self.counts: Counter[str] = Counter()
        self._send_to_robot = send
        self._stop_robot = stop
        self._enable = enable
        self._on_clear = on_clear
        self._clock = clock
        self._lock = threading.RLock()  # a callback may ask for the status
        self._state, self._reason = DISARMED, "not armed yet"
        self._must_arm = False
        self._start_A = np.full(len(config.names), np.nan)
        self._reference_A = self._start_A
        self._sent_A: np.ndarray | None = None
        self._ramp_start_s: float | None = None
        self._valid_s = self._seen_s = self._held_s = 0.0
        self._ended = threading.Event()
        self._watchdog: threading.Thread | None = None

    # --- the life of a run -----------------------------------------------------------------------

    def __enter__(self) -> Governor:
        self._ended.clear()
        self._watchdog = threading.Thread(target=self._watch, name="governor", daemon=True)
        self._watchdog.start()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            if kind is not None:
                self.stop(kind.__name__)
            self.disarm()
        finally:
            self._ended.set()
            if self._watchdog is not None:
                self._watchdog.join(1.0)

    def arm(self, measured_A: Any = None) -> None:
        """Allows motion, from where the robot stands.

        Args:
            measured_A: float (A,), where it stands; needed if a dimension is `absolute`. Other
                dimensions may be NaN.

        Raises `GovernorError` if it runs already, the deadman's switch is not pressed, or a joint
        stands outside of its limits by more than a step.
        """
        with self._lock:
            if self._state == RUNNING:
                raise GovernorError("the governor is armed already: disarm() it first")
            if not self._enabled():
                raise GovernorError(
                    "the deadman's switch is not pressed: press it, and arm() again"
                )
            self._start_A = self._reference_A = self._standing(measured_A)
            self._sent_A = self._ramp_start_s = None
            self._valid_s = self._seen_s = self._clock()
            self._must_arm = False
            self._enter_state(RUNNING, "armed")

    def disarm(self) -> None:
        """Holds, and then sends nothing any more."""
        with self._lock:
            if self._state in (RUNNING, HOLDING):
                self._send_hold()
            self._enter_state(DISARMED, "disarmed")

    def hold(self, reason: str = "asked to hold") -> None:
        """Holds at once and clears the queue; the next valid action moves on."""
        with self._lock:
            self._clear()
            if self._state == RUNNING:
                self._hold(reason)

    def stop(self, reason: str = "asked to stop") -> None:
        """Holds, clears the queue and calls `stop`; nothing moves until `arm`."""
        with self._lock:
            self._clear()
            if self._state in (RUNNING, HOLDING):
                self._send_hold()
                self._stop(reason)

    def status(self) -> Status:
        """What it does now, and what it has counted."""
        with self._lock:
            silence_s = 0.0 if self._state == DISARMED else self._clock() - self._valid_s
            sent_A = None if self._sent_A is None else self._sent_A.copy()
            return Status(self._state, self._reason, dict(self.counts), sent_A, silence_s)

    # --- actions ---------------------------------------------------------------------------------

    def command(
        self,
        action_A: Any,
        *,
        measured_A: Any = None,
        due_s: float | None = None,
        age_s: float = 0.0,
    ) -> bool:
        """Sends an action, changed where it breaks a limit; False if it is rejected.

        Args:
            action_A: float (A,), in robot units.
            measured_A: float (A,), where the robot is, for `max_from_measured`.
            due_s: when it is meant to be executed, on the governor's clock; None: now.
            age_s: how old its observation was when the answer arrived.
        """
        with self._lock:
            now_s = self._clock()
            self._look_at_the_clock(now_s)
            self._look_at_the_deadman()
            if self._state not in (RUNNING, HOLDING) or self._must_arm:
                self._count("not_armed")
                return False
            judgement = self._judge(action_A, measured_A, now_s, due_s, age_s)
            for why in judgement.why:
                self._count(why)
            if judgement.action_A is None:
                if judgement.why[0] in HOLD_AT_ONCE:
                    self._hold(judgement.why[0])
                return False
            self._valid_s = now_s
            self._enter_state(RUNNING, "running")
            self._send(judgement.action_A)
            return True

    def _judge(
        self, action: Any, measured: Any, now_s: float, due_s: float | None, age_s: float
    ) -> Judgement:
        dimensions = len(self.config.names)
        action_A = well_formed(action, dimensions)
        if action_A is None:
            return rejected("shape")
        period_s = self.config.period_s
        # a thousandth more: sums of periods are rounded
        if due_s is not None and not abs(now_s - due_s) <= 0.501 * period_s:
            return rejected("late" if now_s > due_s else "early")
        if not age_s <= self.config.max_observation_age * period_s:
            return rejected("old_observation")
        if self._ramp_start_s is None:
            self._ramp_start_s = now_s
        ramp_s = self.config.ramp_s
        done = 1.0 if ramp_s == 0 else min(1.0, (now_s - self._ramp_start_s + period_s) / ramp_s)
        ramping = done < 1
        if ramping:
            way_A = self._start_A + done * (action_A - self._start_A)
            action_A = np.where(self.bounds.kinds == "absolute", way_A, action_A)
        known_A = positions(measured, self.bounds)
        return judge(
            action_A, self._reference_A, known_A, self.config, self.bounds, ramping=ramping
        )

    # --- silence ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """What the watchdog does four times per period; for those who have a loop of their own."""
        with self._lock:
            now_s = self._clock()
            self._look_at_the_clock(now_s)
            self._look_at_the_deadman()
            if self._state not in (RUNNING, HOLDING):
                return
            silence_s = now_s - self._valid_s
            if silence_s >= self.config.stop_after_s:
                self._send_hold()
                self._stop(f"no valid action for {self.config.stop_after_s:g} s")
            elif silence_s >= self.config.hold_after * self.config.period_s:
                if self._state == RUNNING:
                    self._hold("no valid action")
                elif now_s - self._held_s >= self.config.period_s:
                    self._send_hold()  # again, since a message may be lost

    def _watch(self) -> None:
        while not self._ended.wait(self.config.period_s / 4):
            try:
                self.tick()
            except Exception:  # the robot cannot be reached: `stop` has been called
                log.exception("the robot cannot be commanded")

    def _look_at_the_clock(self, now_s: float) -> None:
        if now_s < self._seen_s:
            # from here the times are counted again
            self._valid_s = self._held_s = now_s
            if self._ramp_start_s is not None:
                self._ramp_start_s = now_s
            if self._state == RUNNING:
                self._hold("the clock went back")
        self._seen_s = now_s

    def _look_at_the_deadman(self) -> None:
        if self._state in (RUNNING, HOLDING) and not self._must_arm and not self._enabled():
            self._count("deadman")
            self._clear()
            if self._state == RUNNING:
                self._hold("the deadman's switch is released")
            self._must_arm = True

    def _enabled(self) -> bool:
        try:
            return self._enable is None or bool(self._enable())
        except Exception:  # a switch that cannot be read is not pressed
            log.exception("the deadman's switch cannot be read")
            return False

    # --- what is sent ----------------------------------------------------------------------------

    def _standing(self, measured: Any) -> np.ndarray:
        """(A,): the measured position inside its limits, 0 for speeds, NaN for what is unknown."""
        bounds, names = self.bounds, self.config.names
        start_A = np.where(bounds.kinds == "velocity", 0.0, np.nan)
        absolute = bounds.kinds == "absolute"
        if not absolute.any():
            return start_A
        where_A = positions(measured, bounds)
        if where_A is None:
            raise GovernorError(
                f"measured_A is needed to arm absolute dimensions: expected {len(names)} numbers "
                f"for {', '.join(names)}"
            )
        inside_A = np.clip(where_A, bounds.inner_low, bounds.inner_high)
        for i in np.flatnonzero(absolute):
            if abs(where_A[i] - inside_A[i]) > bounds.max_step[i]:
                raise GovernorError(
                    f"{names[i]} stands at {where_A[i]:g}, outside of [{bounds.inner_low[i]:g}, "
                    f"{bounds.inner_high[i]:g}] by more than max_step={bounds.max_step[i]:g}: move "
                    "it inside by hand"
                )
        return np.where(absolute, inside_A, start_A)

    def _send(self, action_A: np.ndarray) -> None:
        self._reference_A = self._sent_A = action_A
        try:
            self._send_to_robot(action_A.copy())
        except BaseException as error:
            self._stop(f"sending failed: {type(error).__name__}")
            raise

    def _send_hold(self) -> None:
        self._held_s = self._clock()
        if self._sent_A is not None:  # before the first command the robot stands anyway
            self._send(held(self.bounds, self._sent_A))

    def _hold(self, reason: str) -> None:
        if self._state == RUNNING:
            self._count("hold")
        self._enter_state(HOLDING, reason)
        self._send_hold()

    def _stop(self, reason: str) -> None:
        self._count("stop")
        self._enter_state(STOPPED, reason)
        if self._stop_robot is not None:
            try:
                self._stop_robot()
            except Exception:  # the state is STOPPED all the same
                log.exception("stop() failed")

    def _clear(self) -> None:
        if self._on_clear is not None:
            self._on_clear()

    def _enter_state(self, state: str, reason: str) -> None:
        if state != self._state:
            log.info("%s: %s", state, reason)
            self._state, self._reason = state, reason

    def _count(self, why: str) -> None:
        self.counts[why] += 1
        log.debug("%s, for the %dth time", why, self.counts[why])
