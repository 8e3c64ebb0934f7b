"""A MuJoCo env of your own in one file: an arm that touches the ball whose colour the instruction names.

    python examples/04_your_own_env.py [FOLDER]

Checks the env, collects demonstrations, evaluates its expert against chance, and films them. Replace MJCF, `Arm` and
`ArmConfig` by your own. In a package that declares the entry point `vla.plugins` the same file serves `vla collect`,
`vla train` and `vla eval`.
"""

import sys
import tempfile
from typing import Literal

import numpy as np

import vla
from vla.sim_eval import EnvConfig, SimEnv, Suite, Task, check_env
from vla.sim_eval.rendering import SceneRenderer, choose_backend

choose_backend()  # EGL or OSMesa, before mujoco is imported
import mujoco  # noqa: E402

MJCF = """
<mujoco>
  <option timestep="0.02" gravity="0 0 0" integrator="implicitfast"/>
  <visual><headlight ambient="0.5 0.5 0.5"/></visual>
  <default>
    <geom contype="0" conaffinity="0" rgba="0.25 0.3 0.4 1"/>
    <joint axis="0 0 1" damping="0.1" armature="0.01"/>
    <velocity kv="2" ctrlrange="-2 2"/>
  </default>
  <worldbody>
    <camera name="top" pos="0 0 1.1" fovy="50"/>
    <geom type="plane" size="1 1 0.1" rgba="0.9 0.9 0.85 1"/>
    <body pos="0 0 0.05">
      <joint name="shoulder"/>
      <geom type="capsule" fromto="0 0 0 0.2 0 0" size="0.025" mass="0.2"/>
      <body pos="0.2 0 0">
        <joint name="elbow"/>
        <geom type="capsule" fromto="0 0 0 0.2 0 0" size="0.02" mass="0.1"/>
        <site name="tip" pos="0.2 0 0"/>
      </body>
    </body>
    <body name="red" mocap="true"><geom type="sphere" size="0.035" rgba="0.9 0.2 0.2 1"/></body>
    <body name="blue" mocap="true"><geom type="sphere" size="0.035" rgba="0.2 0.3 0.9 1"/></body>
  </worldbody>
  <actuator><velocity joint="shoulder"/><velocity joint="elbow"/></actuator>
</mujoco>
"""
COLOURS = ("red", "blue")
SPEED = 2.0  # radians per second that an action of 1 asks for
TOUCH = 0.04  # metres


class Arm(SimEnv):
    """Both balls are always there, so that only the instruction tells which one counts."""

    def __init__(self, config: "ArmConfig", task: Task) -> None:
        self.robot_spec, self.task = config.spec(), task
        self.model = mujoco.MjModel.from_xml_string(MJCF)
        self.data = mujoco.MjData(self.model)
        self.renderer = SceneRenderer(self.model, config.image_size, config.image_size)
        self._steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # seeds self.np_random
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.np_random.uniform((-3.0, 0.5), (3.0, 2.5))
        red = self.np_random.uniform(-np.pi, np.pi)
        for i, angle in enumerate((red, red + self.np_random.uniform(1.0, 5.0))):
            self.data.mocap_pos[i, :2] = self.np_random.uniform(0.2, 0.36) * np.array(
                [np.cos(angle), np.sin(angle)]
            )
            self.data.mocap_pos[i, 2] = 0.05
        mujoco.mj_forward(self.model, self.data)
        self._steps = 0
        return self.observe(), self._info()

    def step(self, action):
        self.data.ctrl[:] = SPEED * np.clip(action, -1, 1)
        mujoco.mj_step(self.model, self.data, nstep=5)
        mujoco.mj_forward(self.model, self.data)
        self._steps += 1
        reward = -float(np.linalg.norm(self._way()))
        return self.observe(), reward, False, self._steps >= self.task.horizon, self._info()

    def observe(self):
        images = {"top": self.renderer.render(self.data, 0)} if self.render_images else {}
        return {"images": images, "state": self.data.qpos.astype(np.float32)}

    def expert_action(self):
        """Joint velocities that lead the tip straight to the ball (damped least squares)."""
        jacobian = np.zeros((3, 2))
        mujoco.mj_jacSite(self.model, self.data, jacobian, None, self.model.site("tip").id)
        J = jacobian[:2]
        velocities = J.T @ np.linalg.solve(J @ J.T + 1e-3 * np.eye(2), 4 * self._way())
        return (velocities / max(SPEED, np.abs(velocities).max())).astype(np.float32)

    def close(self):
        self.renderer.close()

    def _way(self):
        """From the tip to the ball, metres (2,)."""
        return (
            self.data.mocap_pos[COLOURS.index(self.task.name), :2] - self.data.site("tip").xpos[:2]
        )

    def _info(self):
        success = bool(np.linalg.norm(self._way()) < TOUCH)
        return {
            "instruction": self.task.instruction,
            "success": success,
            "failure": "" if success else "never reached",
        }


@vla.register("envs", "two_link_arm")
class ArmConfig(EnvConfig):
    """What a config names by `type: two_link_arm`."""

    type: Literal["two_link_arm"] = "two_link_arm"
    image_size: int = 64

    def spec(self) -> vla.Spec:
        size, joints = (self.image_size, self.image_size), ("shoulder", "elbow")
        return vla.Spec({"top": size}, joints, joints, (-1.0, -1.0), (1.0, 1.0), control_hz=10)

    def suite(self) -> Suite:
        return Suite(
            "arm", tuple(Task(c, "touch", f"Touch the {c} ball", horizon=60) for c in COLOURS)
        )

    def make(self, task: str) -> Arm:
        return Arm(self, self.suite().task(task))


def main(folder: str) -> None:
    for task in COLOURS:
        env = ArmConfig().make(task)
        check_env(env)  # tells in words what is wrong with an env
        env.close()

    # Workers are processes of their own and import the env from its module; this script plays in its own process.
    env_config = {"type": "two_link_arm"}
    demonstrations = {
        "env": env_config,
        "out": f"{folder}/dataset",
        "episodes_per_task": 4,
        "workers": 1,
    }
    dataset = vla.EpisodeDataset(vla.collect(vla.load_config(vla.CollectConfig, demonstrations)))
    print(f"{dataset.num_episodes} demonstrations, {dataset.num_frames} steps")

    for policy in ("expert", "random"):
        evaluation = {
            "env": env_config,
            "out": f"{folder}/{policy}",
            "episodes_per_task": 10,
            "workers": 0,
        }
        results = vla.evaluate(policy, vla.load_config(vla.EvalConfig, evaluation), progress=False)
        solved = sum(record.success_ever for record in results.episodes)
        films = [record.video for record in results.episodes if record.video]
        print(
            f"{policy}: {solved} of {len(results.episodes)} solved; films in {folder}/{policy}: {', '.join(films)}"
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
