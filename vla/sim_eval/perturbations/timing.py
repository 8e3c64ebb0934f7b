"""Perturbations between policy and robot: what is late, and where the robot begins."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from vla.common.registry import register
from vla.sim_eval.perturbations.base import Observed, Perturbation
from vla.types import Spec

DELAYS = (0.05, 0.1, 0.2)


def steps_late(delay: float, spec: Spec) -> int:
    """Control steps of a delay in seconds: rounded, at least 1, 2 or 3 for the three severities."""
    # at a low control rate two severities would round to the same number of steps, or to none
    least = DELAYS.index(delay) + 1
    return max(least, round(delay * spec.control_hz))


def limits(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest action, float32 (A,) each."""
    low = np.asarray(spec.action_low, dtype=np.float32)
    high = np.asarray(spec.action_high, dtype=np.float32)
    return low, high


@register("perturbations", "action_delay")
class ActionDelay(Perturbation):
    """The robot executes what was decided earlier; before anything was, it
    gets zeros within its limits."""

    kind = "action_delay"
    levels = DELAYS
    unit = "{} s, at least 1, 2, 3 control steps"

    def begin(self) -> None:
        spec = self.episode.env.robot_spec
        # limits need not include zero
        low, high = limits(spec)
        idle = np.clip(np.zeros(spec.action_dim, dtype=np.float32), low, high)
        idle = np.where(spec.is_binary, low, idle)
        self._waiting = deque([idle] * steps_late(self.level, spec))

    def action(self, action: np.ndarray) -> np.ndarray:
        self._waiting.append(np.array(action))
        return self._waiting.popleft()


@register("perturbations", "observation_delay")
class ObservationDelay(Perturbation):
    """Pictures and state are those of an earlier step; in the beginning those of the start."""

    kind = "observation_delay"
    levels = DELAYS
    unit = "{} s, at least 1, 2, 3 control steps"
    looks_back = True

    def begin(self) -> None:
        self._steps = steps_late(self.level, self.episode.env.robot_spec)
        self._seen: dict[int, Observed] = {}

    def observation(self, observation: Observed, step: int) -> Observed:
        # a step may be looked at again, with pictures or without: what was drawn stays
        if observation["images"] or step not in self._seen:
            self._seen[step] = observation
        late = max(0, step - self._steps)
        for old in list(self._seen):
            if old < late:
                del self._seen[old]
        then = self._seen[late]
        if observation["images"] and not then["images"]:
            # nobody looked then, so nothing older was drawn: the present
            # picture is the best there is
            return {**then, "images": observation["images"]}
        return then


@register("perturbations", "initial_pose")
class InitialPose(Perturbation):
    """The robot begins where a random action has led it; these steps count towards the env's
    horizon.

    At most half of the horizon is used up so.
    """

    kind = "initial_pose"
    levels = (4, 8, 16)
    unit = "a random action is held for {} control steps before the start"

    def begin(self) -> dict[str, Any] | None:
        env, info = self.episode.env, None
        # one action held, not one per step: random steps cancel, and the hand would hardly move
        action = self.rng().uniform(*limits(env.robot_spec)).astype(np.float32)
        for _ in range(min(self.level, env.task.horizon // 2)):
            _, _, _, _, info = env.step(action)
            self.episode.started += 1
        return info
