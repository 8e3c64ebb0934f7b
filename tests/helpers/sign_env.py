"""A point on a line that has to stop at 0, whose actuator is wired the right or the wrong way round."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from vla.config import register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.types import Spec

SPEC = Spec({}, ("x",), ("push",), (-1.0,), (1.0,), control_hz=10)
HORIZON = 25


class SignEnv(SimEnv):
    privileged_names = ("sign",)

    def __init__(self) -> None:
        self.robot_spec = SPEC
        self.task = SignConfig().suite().tasks[0]
        self.sign, self.x, self.steps = 1.0, 0.0, 0

    def observe(self) -> dict[str, Any]:
        return {"images": {}, "state": np.array([self.x], np.float32)}

    def _info(self) -> dict[str, Any]:
        return {"instruction": self.task.instruction, "success": abs(self.x) < 0.1}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.sign = float(self.np_random.choice([-1.0, 1.0]))
        self.x = float(self.np_random.choice([-1, 1]) * self.np_random.uniform(0.5, 1.0))
        self.steps = 0
        return self.observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.x = float(np.clip(self.x + 0.2 * self.sign * float(action[0]), -2, 2))
        self.steps += 1
        info = self._info()
        return self.observe(), -abs(self.x), False, self.steps >= HORIZON, info

    def privileged(self) -> np.ndarray:
        return np.array([self.sign], np.float32)

    def expert_action(self) -> np.ndarray:
        return np.array([np.clip(-4 * self.sign * self.x, -1, 1)], np.float32)


@register("envs", "test_sign")
class SignConfig(EnvConfig):
    """The env above."""

    type: Literal["test_sign"] = "test_sign"

    def spec(self) -> Spec:
        return SPEC

    def suite(self) -> Suite:
        return Suite("signs", (Task("stop", "", "Stop at zero", (), HORIZON),))

    def make(self, task: str) -> SimEnv:
        return SignEnv()
