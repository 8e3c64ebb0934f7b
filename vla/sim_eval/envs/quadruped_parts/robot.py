"""A quadruped of primitives in MuJoCo: twelve joints, 12.4 kg, no mesh.

Sizes and masses are about those of a Unitree Go1. Axes of the trunk: x forwards, y to the left, z
up; units are metres, radians, kilograms, seconds. Everything is a box, a capsule or a sphere, so
that a picture costs a fraction of a millisecond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.sim_eval.envs.quadruped_parts.commands import STAND
from vla.sim_eval.envs.quadruped_parts.kinematics import CALF, OFFSET, SIDE, THIGH, leg_angles

LEGS = ("FL", "FR", "RL", "RR")
JOINTS = ("abduction", "hip", "knee")
JOINT_NAMES = tuple(f"{leg}_{joint}" for leg in LEGS for joint in JOINTS)
END = np.array([1.0, 1.0, -1.0, -1.0])
"""1 for front legs, -1 for rear legs."""
HIP_X, HIP_Y = 0.188, 0.047
HIPS = np.stack([END * HIP_X, SIDE * HIP_Y, np.zeros(4)], axis=1)
"""Where the abduction joints are in the trunk (4, 3)."""
FOOT = 0.022
"""Radius of a foot."""
STIFFNESS, DAMPING, TORQUE = 90.0, 2.5, 33.0
"""Of the position servos: Nm/rad, Nm s/rad, and the most that one gives in Nm."""
FOOT_FRICTION, GROUND_FRICTION = 0.9, 0.8
TIMESTEP = 0.005
LOWEST = 0.09
"""A trunk whose middle is lower lies on the ground."""


def model_xml(world: str = "", on_trunk: str = "") -> str:
    """The robot on a floor, as MJCF; `world` is what else there is, `on_trunk` what it carries
    (`scene.py`).

    Geoms of `world` take the class "world" if the robot can touch them, and "painted" if not.
    """
    # The robot's own geoms collide with the world, never with each other: legs that cannot meet
    # within the box would only cost time. Few slices: round things look alike at 96 pixels.
    legs = "".join(_leg(i) for i in range(4))
    servos = "".join(
        f'<position name="{name}" joint="{name}" kp="{STIFFNESS}" kv="{DAMPING}" '
        f'forcerange="-{TORQUE} {TORQUE}"/>'
        for name in JOINT_NAMES
    )
    return f"""
<mujoco model="quadruped">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" iterations="20" ls_iterations="10"/>
  <size memory="8M"/>
  <visual>
    <headlight ambient="0.5 0.5 0.5" diffuse="0.4 0.4 0.4" specular="0 0 0"/>
    <map znear="0.02" zfar="30"/>
    <quality offsamples="0" shadowsize="0" numslices="12" numstacks="6" numquads="1"/>
  </visual>
  <asset>
    <texture name="tiles" type="2d" builtin="checker" width="64" height="64"
      rgb1="0.62 0.60 0.55" rgb2="0.55 0.53 0.49"/>
    <texture name="gravel" type="2d" builtin="flat" width="64" height="64" mark="random"
      random="0.3" rgb1="0.48 0.47 0.46" markrgb="0.58 0.57 0.55"/>
    <texture name="sky" type="skybox" builtin="gradient" width="16" height="96"
      rgb1="0.60 0.75 0.90" rgb2="0.90 0.93 0.96"/>
    <material name="tiles" texture="tiles" texrepeat="10 10" specular="0"/>
    <material name="gravel" texture="gravel" texrepeat="10 10" specular="0"/>
  </asset>
  <default>
    <joint damping="0.4" armature="0.01" frictionloss="0.1"/>
    <geom friction="{GROUND_FRICTION} 0.02 0.01" contype="1" conaffinity="0"/>
    <default class="foot">
      <geom type="sphere" size="{FOOT}" mass="0.06" friction="{FOOT_FRICTION} 0.02 0.01"
        solref="0.01 1" rgba="0.1 0.1 0.1 1"/>
    </default>
    <default class="world"><geom contype="0" conaffinity="1"/></default>
    <default class="painted"><geom contype="0" conaffinity="0" mass="0"/></default>
  </default>
  <worldbody>
    <light name="sun" pos="0 0 6" dir="0.2 0.1 -1" directional="true" diffuse="0.4 0.4 0.4"
      specular="0 0 0"/>
    <geom name="floor" class="world" type="plane" size="10 10 1" material="tiles"/>
    <body name="trunk" pos="0 0 0.32">
      <freejoint name="root"/>
      <geom name="trunk" type="box" size="0.19 0.09 0.05" mass="5.2" rgba="0.85 0.55 0.15 1"/>
      <geom name="head" type="box" size="0.04 0.05 0.035" pos="0.225 0 0.015" mass="0.4"
        rgba="0.15 0.15 0.16 1"/>
      <camera name="front" pos="0.27 0 0.03" xyaxes="0 -1 0 0.10 0 0.995" fovy="80"/>
      <camera name="chase" pos="-1.4 0 0.75" xyaxes="0 -1 0 0.42 0 0.91" fovy="60" mode="track"/>
      {on_trunk}
      {legs}
    </body>
    {world}
  </worldbody>
  <actuator>{servos}</actuator>
</mujoco>"""


def _leg(number: int) -> str:
    name, end, side = LEGS[number], END[number], SIDE[number]
    return f"""
      <body name="{name}_hip" pos="{end * HIP_X} {side * HIP_Y} 0">
        <joint name="{name}_abduction" axis="1 0 0" range="-0.9 0.9"/>
        <geom type="capsule" size="0.036" fromto="0 {-side * 0.01} 0 0 {side * 0.05} 0"
          mass="0.6" rgba="0.20 0.20 0.22 1"/>
        <body name="{name}_thigh" pos="0 {side * OFFSET} 0">
          <joint name="{name}_hip" axis="0 1 0" range="-1.2 3.2"/>
          <geom type="capsule" size="0.022" fromto="0 0 0 0 0 {-THIGH}" mass="0.9"
            rgba="0.75 0.76 0.78 1"/>
          <body name="{name}_calf" pos="0 0 {-THIGH}">
            <joint name="{name}_knee" axis="0 1 0" range="-2.75 -0.5"/>
            <geom type="capsule" size="0.014" fromto="0 0 0 0 0 {-CALF + 0.01}" mass="0.15"
              rgba="0.20 0.20 0.22 1"/>
            <geom name="{name}_foot" class="foot" pos="0 0 {-CALF}"/>
          </body>
        </body>
      </body>"""


class WorldError(UserError):
    """A property of robot or ground that no robot and no ground can have."""


@dataclass(frozen=True)
class BodyState:
    """How the trunk is and moves.

    Attributes:
        xy: place of the trunk's middle on the ground (2,).
        height: of the trunk's middle.
        roll, pitch, yaw: pitch is nose down, yaw to the left.
        velocity: (forwards, to the left, turning to the left) in the axes of the heading (3,).
        tilt_rates: of roll and pitch (2,), rad/s.
    """

    xy: np.ndarray
    height: float
    roll: float
    pitch: float
    yaw: float
    velocity: np.ndarray
    tilt_rates: np.ndarray


class Robot:
    """The robot inside one model: what it senses, where it stands, and what it is made of.

    Args:
        model: compiled from `model_xml`; its present values are the nominal ones.
        data: of that model.
    """

    def __init__(self, model: Any, data: Any) -> None:
        import mujoco

        self._mujoco = mujoco
        self.model, self.data = model, data
        self.joint_positions = np.array([model.joint(name).qposadr[0] for name in JOINT_NAMES])
        """Where the joints' angles are in `data.qpos` (12,)."""
        self.joint_velocities = np.array([model.joint(name).dofadr[0] for name in JOINT_NAMES])
        """Where their velocities are in `data.qvel` (12,)."""
        self._actuators = np.array([model.actuator(name).id for name in JOINT_NAMES])
        self._trunk = int(model.body("trunk").id)
        self._floor = int(model.geom("floor").id)
        self._feet = np.array([model.geom(f"{leg}_foot").id for leg in LEGS])
        self._nominal = {
            "mass": float(model.body_mass[self._trunk]),
            "inertia": model.body_inertia[self._trunk].copy(),
            "middle": model.body_ipos[self._trunk].copy(),
        }
        self.motor = 1.0
        """Strength of the motors against the nominal one."""
        self.world = {"friction": 1.0, "payload": 0.0, "motor": 1.0, "com": 0.0}
        """What `set_world` was given last."""

    def stand(self, x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> None:
        """Puts the robot on its feet, at rest, in the posture of `STAND`."""
        height, width = STAND[3], STAND[10]
        down = np.full(4, FOOT - height)
        feet = np.stack([END * HIP_X, SIDE * width / 2, down], axis=1)
        angles = leg_angles(feet - HIPS).ravel()
        self.data.qpos[:3] = [x, y, height]
        self.data.qpos[3:7] = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        self.data.qpos[self.joint_positions] = angles
        self.data.qvel[:6] = 0.0
        self.data.qvel[self.joint_velocities] = 0.0
        self.data.ctrl[self._actuators] = angles
        self._mujoco.mj_forward(self.model, self.data)

    def sense(self) -> BodyState:
        """The present state; what a robot has from its inertial sensor and its legs."""
        # plain floats: a NumPy scalar takes ten times as long
        px, py, height, w, x, y, z = self.data.qpos[:7].tolist()
        vx, vy, _, roll_rate, pitch_rate, yaw_rate = self.data.qvel[:6].tolist()
        roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
        pitch = math.asin(min(max(2 * (w * y - z * x), -1.0), 1.0))
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        cos, sin = math.cos(yaw), math.sin(yaw)
        # a free joint's linear velocity is in the world's axes, its angular one in the body's
        velocity = np.array([cos * vx + sin * vy, cos * vy - sin * vx, yaw_rate])
        return BodyState(
            xy=np.array([px, py]),
            height=height,
            roll=roll,
            pitch=pitch,
            yaw=yaw,
            velocity=velocity,
            tilt_rates=np.array([roll_rate, pitch_rate]),
        )

    def fallen(self) -> bool:
        """Whether the trunk lies low or is turned by more than 60 degrees from upright."""
        _, x, y, _ = self.data.qpos[3:7]
        upright = 1 - 2 * (x * x + y * y)
        return bool(upright < 0.5 or self.data.qpos[2] < LOWEST)

    def aim(self, angles: np.ndarray) -> None:
        """Sets what the servos hold, in radians: (4, 3) or (12,)."""
        self.data.ctrl[self._actuators] = np.ravel(angles)

    def feet_on_ground(self) -> np.ndarray:
        """Which feet touch the floor now; bool (4,)."""
        pairs_C2 = self.data.contact.geom  # C contacts, the two geoms of each
        down = np.zeros(4, dtype=bool)
        if len(pairs_C2):
            of_floor_C = (pairs_C2 == self._floor).any(1)
            touching = pairs_C2[of_floor_C]
            for leg, foot in enumerate(self._feet):
                down[leg] = (touching == foot).any()
        return down

    def set_world(
        self,
        *,
        friction: float = 1.0,
        payload: float = 0.0,
        motor: float = 1.0,
        com: float = 0.0,
    ) -> None:
        """Changes robot and ground until the next call; what is not named is nominal again.

        Args:
            friction: factor of the friction between feet and floor.
            payload: kilograms on the trunk; they move its centre of mass up by 6 mm each.
            motor: factor of stiffness, damping and greatest torque of all servos.
            com: how far the trunk's centre of mass is moved forwards, metres.

        Raises WorldError for what cannot be.
        """
        values = {"friction": friction, "payload": payload, "motor": motor, "com": com}
        _check_world(values)
        self.world = values
        model, nominal, trunk = self.model, self._nominal, self._trunk
        # a contact takes the greater friction of its two geoms, so both change
        model.geom_friction[self._feet, 0] = FOOT_FRICTION * friction
        model.geom_friction[self._floor, 0] = GROUND_FRICTION * friction
        model.body_mass[trunk] = nominal["mass"] + payload
        model.body_inertia[trunk] = nominal["inertia"] * (1 + payload / nominal["mass"])
        model.body_ipos[trunk] = nominal["middle"] + [com, 0.0, 0.006 * payload]
        servos = self._actuators
        model.actuator_gainprm[servos, 0] = STIFFNESS * motor
        model.actuator_biasprm[servos, 1] = -STIFFNESS * motor
        model.actuator_biasprm[servos, 2] = -DAMPING * motor
        model.actuator_forcerange[servos] = np.array([-TORQUE, TORQUE]) * motor
        self.motor = motor
        # what MuJoCo derives from weights once; in data of its own, or the present state is lost
        self._mujoco.mj_setConst(model, self._mujoco.MjData(model))


# Wide: an experiment may want ice or a broken motor; what is outside is a slip of the pen.
_WORLD_LIMITS = {
    "friction": (0.01, 5.0),
    "payload": (0.0, 30.0),
    "motor": (0.05, 5.0),
    "com": (-0.2, 0.2),
}


def _check_world(values: dict[str, float]) -> None:
    for name, value in values.items():
        low, high = _WORLD_LIMITS[name]
        if not low <= value <= high:  # NaN too
            raise WorldError(f"{name}: is {value:g}; give {low:g} to {high:g}")


__all__ = ["JOINT_NAMES", "LEGS", "BodyState", "Robot", "WorldError", "model_xml"]
