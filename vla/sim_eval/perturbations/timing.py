"""Perturbations between policy and robot: what is late, and where the robot begins."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from vla.sim_eval.perturbations.base import Observed, Perturbation, perturbation
from vla.types import Spec

DELAYS = (0.05, 0.1, 0.2)


def steps_late(delay: float, spec: Spec) -> int:
    """Control steps of a delay in seconds: rounded, at least 1, 2 or 3 for the three severities."""
    return max(DELAYS.index(delay) + 1, round(delay * spec.control_hz))


def limits(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest action, float32 (A,) each."""
    return np.asarray(spec.action_low, dtype=np.float32), np.asarray(
        spec.action_high, dtype=np.float32
    )


@perturbation("action_delay", levels=DELAYS, unit="{} s, at least 1, 2, 3 control steps")
class ActionDelay(Perturbation):
    """The robot executes what was decided earlier; before anything was, it gets zeros within its limits."""

    def begin(self) -> None:
        spec = self.episode.env.robot_spec
        idle = np.clip(np.zeros(spec.action_dim, dtype=np.float32), *limits(spec))
        self._waiting = deque([idle] * steps_late(self.level, spec))

    def action(self, action: np.ndarray) -> np.ndarray:
        self._waiting.append(np.array(action))
        return self._waiting.popleft()


@perturbation("observation_delay", levels=DELAYS, unit="{} s, at least 1, 2, 3 control steps")
class ObservationDelay(Perturbation):
    """Pictures and state are those of an earlier step; in the beginning those of the start."""

    looks_back = True

    def begin(self) -> None:
        self._steps = steps_late(self.level, self.episode.env.robot_spec)
        self._seen: dict[int, Observed] = {}

    def observation(self, observation: Observed, step: int) -> Observed:
        # A step may be looked at again, with pictures or without: what was drawn stays.
        if observation["images"] or step not in self._seen:
            self._seen[step] = observation
        late = max(0, step - self._steps)
        for old in [s for s in self._seen if s < late]:
            del self._seen[old]
        then = self._seen[late]
        if (
            observation["images"] and not then["images"]
        ):  # nobody looked then, so that nothing older was drawn
            return {**then, "images": observation["images"]}
        return then


@perturbation(
    "initial_pose",
    levels=(4, 8, 16),
    unit="a random action is held for {} control steps before the start",
)
class InitialPose(Perturbation):
    """The robot begins where a random action has led it; these steps count towards the env's horizon.

    At most half of the horizon is used up so.
    """

    def begin(self) -> dict[str, Any] | None:
        env, info = self.episode.env, None
        action = self.rng().uniform(*limits(env.robot_spec)).astype(np.float32)
        for _ in range(min(self.level, env.task.horizon // 2)):
            _, _, _, _, info = env.step(action)
            self.episode.started += 1
        return info
