"""What a server keeps of the robots of one client between their observations.

B robots of one session.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from vla.common.errors import UserError
from vla.control import EpisodeState
from vla.serving.metrics import Metrics
from vla.serving.observations import RobotInputs

log = logging.getLogger("vla.serving")
GAPS = 20
"""Observations whose distances in time are kept."""
_KEYS = itertools.count()
LATE = 1.5
"""Control periods between observations, beyond which the policy does not see every step."""


@dataclass(frozen=True)
class SessionRules:
    """What holds for all sessions of a policy.

    Attributes:
        period: seconds of a control step.
        every_step: whether the policy has to see each of them.
        idle_reset_s: silence after which an episode starts; None for never.
    """

    period: float
    every_step: bool
    idle_reset_s: float | None
    metrics: Metrics


@dataclass
class Session:
    """B robots that one client speaks for; usually one.

    Attributes:
        robots: what the policy remembers of each; empty before the first observation.
        episodes: of each, the number of its episode; no number comes twice.
        key: of this session alone, among all of the process.
        step: the last `vla/step`, if the client counts.
        last_seen: when the last observation came in, in seconds of the monotonic clock.
    """

    rules: SessionRules
    name: str = ""
    robots: list[EpisodeState] = field(default_factory=list)
    episodes: list[int] = field(default_factory=list)
    key: int = field(default_factory=_KEYS.__next__)
    step: int | None = None
    last_seen: float | None = None
    _gaps: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS))
    _has_warned: bool = False
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def observe(
        self,
        inputs: RobotInputs,
        *,
        reset: bool | list[bool] = False,
        step: int | None = None,
        now: float,
    ) -> None:
        """Takes in what the robots see; all of them then wait for actions.

        Args:
            reset: whether an episode starts, of all robots or one by one.
            step: the control step of the observation, by the client's count.
            now: seconds of the monotonic clock.

        Raises UserError, and changes nothing, if the observation does not follow on the last one.
        """
        resets = self._resets(inputs.batch_size, reset, now)
        self._check_step(step, resets)
        # the time between two episodes says nothing of the rate within one
        if not self.robots or all(resets):
            self._gaps.clear()
        elif self.last_seen is not None:
            self._note_gap(now - self.last_seen)
        # lists of their own: what is wrong with a later row must leave the former ones as they were
        robots, episodes = [], []
        for row, starts in enumerate(resets):
            robot = EpisodeState() if starts else self.robots[row]
            episodes.append(next(self._numbers) if starts else self.episodes[row])
            instruction = inputs.instructions[row]
            # control starts a new episode at another instruction, as training windows end there
            if not starts and robot.instruction != instruction:
                robot = EpisodeState()
                episodes[row] = next(self._numbers)
                self.rules.metrics.add("vla_resets_total", reason="instruction")
            robot.robot_state = inputs.state[row]
            robot.instruction = instruction
            robot.queued = inputs.queued[row] if inputs.queued else None
            robots.append(robot)
        self.robots = robots
        self.episodes = episodes
        self.step = step
        self.last_seen = now

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs: memories are values, but averages over chunks change in place."""
        robots = [
            dataclasses.replace(robot, ensemble=copy.deepcopy(robot.ensemble))
            for robot in self.robots
        ]
        return {
            "robots": robots,
            "episodes": self.episodes,
            "step": self.step,
            "last_seen": self.last_seen,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """As if the observation since `snapshot` had not come: the client may send it again."""
        for name, value in snapshot.items():
            setattr(self, name, value)

    def _resets(self, B: int, reset: bool | list[bool], now: float) -> list[bool]:
        """Which robots start an episode."""
        count = self.rules.metrics.add
        idle = self.rules.idle_reset_s
        if not self.robots:
            count("vla_resets_total", B, reason="connection")
            return [True] * B
        if reset is True:
            count("vla_resets_total", B, reason="reset")
            return [True] * B
        if idle is not None and self.last_seen is not None and now - self.last_seen > idle:
            count("vla_resets_total", B, reason="idle")
            return [True] * B
        if len(self.robots) != B:
            raise UserError(
                f"the observation is of {B} robots, the last one was of {len(self.robots)}; "
                "whoever joins or leaves needs a session of its own (`vla/session`), or send "
                "`vla/reset`: true"
            )
        if reset is False:
            return [False] * B
        if len(reset) != B:
            raise UserError(f"vla/reset: has {len(reset)} values for {B} robots; give one for each")
        count("vla_resets_total", sum(reset), reason="reset")
        return reset

    def _check_step(self, step: int | None, resets: list[bool]) -> None:
        if step is None or self.step is None or any(resets):
            return
        if step <= self.step:
            raise UserError(
                f"vla/step: is {step} after {self.step}: send `vla/reset`: true at the start of an "
                "episode, and each step once"
            )
        self.rules.metrics.add("vla_missed_steps_total", step - self.step - 1)

    def _note_gap(self, seconds: float) -> None:
        """Says once if a policy that looks back does not see every step."""
        self._gaps.append(seconds)
        if self._has_warned or not self.rules.every_step or len(self._gaps) < GAPS:
            return
        median = statistics.median(self._gaps)
        if median > LATE * self.rules.period:
            self._has_warned = True
            log.warning(
                "session %s: %.0f ms between observations, a control step has %.0f ms: this policy "
                "looks back and was trained on every step; execute one action of a chunk, then ask "
                "again",
                self.name or "-",
                1000 * median,
                1000 * self.rules.period,
            )
