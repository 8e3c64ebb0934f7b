"""A real but tiny MuJoCo env for tests: a point mass in the plane that has to reach a coloured target.

Two tasks, "red" and "blue": both targets stand in the scene, the instruction says which one counts.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla.config import register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.rendering import SceneRenderer, choose_backend
from vla.types import Spec

MJCF = """
<mujoco>
  <option timestep="0.02" integrator="implicitfast" gravity="0 0 0"/>
  <visual><headlight ambient="0.6 0.6 0.6"/></visual>
  <worldbody>
    <camera name="top" pos="0 0 2.6" fovy="50"/>
    <geom type="plane" size="1.2 1.2 0.1" rgba="0.85 0.85 0.8 1"/>
    <body name="point">
      <joint name="x" type="slide" axis="1 0 0" damping="1"/>
      <joint name="y" type="slide" axis="0 1 0" damping="1"/>
      <geom type="sphere" size="0.1" mass="0.1" rgba="0.1 0.1 0.1 1" contype="0" conaffinity="0"/>
    </body>
    <body name="red" mocap="true" pos="0 0 0"><geom type="box" size="0.15 0.15 0.02" rgba="1 0 0 1" contype="0" conaffinity="0"/></body>
    <body name="blue" mocap="true" pos="0 0 0"><geom type="box" size="0.15 0.15 0.02" rgba="0 0 1 1" contype="0" conaffinity="0"/></body>
  </worldbody>
  <actuator><velocity joint="x" kv="2"/><velocity joint="y" kv="2"/></actuator>
</mujoco>
"""


class PointEnv(SimEnv):
    def __init__(self, config: PointConfig, task: str) -> None:
        choose_backend()
        import mujoco

        self.config, self.robot_spec, self.task = config, config.spec(), config.suite().task(task)
        self._mj = mujoco
        self.model = mujoco.MjModel.from_xml_string(MJCF)
        self.data = mujoco.MjData(self.model)
        self.renderer = SceneRenderer(self.model, config.image_size, config.image_size)
        self._steps = 0

    def observe(self) -> dict[str, Any]:
        images = {"top": self.renderer.render(self.data, 0)} if self.render_images else {}
        return {"images": images, "state": self.data.qpos.astype(np.float32)}

    def changing_parts(self) -> tuple[object, ...]:
        return (self,)

    def _offset(self) -> np.ndarray:
        return self.data.mocap_pos[["red", "blue"].index(self.task.name), :2] - self.data.qpos

    def _info(self) -> dict[str, Any]:
        distance = float(np.linalg.norm(self._offset()))
        failure = "came near" if distance < 0.5 else "never came near"
        return {
            "instruction": self.task.instruction,
            "success": distance < 0.15,
            "failure": failure,
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict]:
        super().reset(seed=seed)
        self._misbehave(seed)
        self._mj.mj_resetData(self.model, self.data)
        side = self.np_random.choice([-1, 1])
        self.data.mocap_pos[:, 0] = [0.6 * side, -0.6 * side]
        self.data.mocap_pos[:, 1] = self.np_random.uniform(-0.6, 0.6, 2)
        self._mj.mj_forward(self.model, self.data)
        self._steps = 0
        return self.observe(), self._info()

    def _misbehave(self, seed: int | None) -> None:
        """Does what the config asks for: a worker must survive envs that die, hang or raise."""
        kind, _, file = self.config.trouble.partition(":")
        if kind == "raise":
            raise RuntimeError("the simulator exploded")
        kind, _, always = kind.partition(" ")
        if kind in ("die", "hang") and (always or not Path(file).exists()):
            if file:
                Path(file).touch()  # once only: the next attempt finds the file
            if kind == "hang":
                time.sleep(1000)
            os._exit(17)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = action
        for _ in range(5):
            self._mj.mj_step(self.model, self.data)
        self._steps += 1
        info = self._info()
        return (
            self.observe(),
            -float(np.linalg.norm(self._offset())),
            False,
            self._steps >= self.task.horizon,
            info,
        )

    def expert_action(self) -> np.ndarray:
        return np.clip(4 * self._offset(), -1, 1).astype(np.float32)

    def close(self) -> None:
        self.renderer.close()


@register("envs", "test_point")
class PointConfig(EnvConfig):
    """A point mass that has to reach a coloured target."""

    type: Literal["test_point"] = "test_point"
    image_size: int = 32
    horizon: int = 40
    tasks: tuple[str, ...] = ("red", "blue")
    trouble: str = ""

    def spec(self) -> Spec:
        size = (self.image_size, self.image_size)
        return Spec(
            {"top": size}, ("x", "y"), ("vx", "vy"), (-1.0, -1.0), (1.0, 1.0), control_hz=10
        )

    def suite(self) -> Suite:
        groups = {"red": "warm", "blue": "cold"}
        tasks = tuple(
            Task(t, groups[t], f"Go to the {t} square", horizon=self.horizon) for t in self.tasks
        )
        return Suite("points", tasks)

    def make(self, task: str) -> SimEnv:
        return PointEnv(self, task)

    def versions(self) -> dict[str, str]:
        return {"preset": "fast"}
