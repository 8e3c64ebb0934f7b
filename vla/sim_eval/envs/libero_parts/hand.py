"""The hand of LIBERO's arm as an expert sees and moves it.

The tool's frame: x is the axis along which the fingers open, z points from the palm to the fingers.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from vla.sim_eval.envs.libero_parts.simulation import GRIP_SITE, Simulation

OPEN, CLOSE = -1.0, 1.0
"""Of the action's last number."""
STEP = 0.05  # metres by which an action of 1 puts the controller's goal ahead of the hand
TURN = 0.5  # radians, likewise
GAIN = 1.0  # share of the way that one action asks for: 20 of the action for a metre
TURN_GAIN = 0.4
FINGERS = (
    ("gripper0_finger1_pad_collision", "gripper0_finger1_collision"),
    ("gripper0_finger2_pad_collision", "gripper0_finger2_collision"),
)
"""The collision shapes of each finger: narrow things lie against the finger above its pad."""


class Hand:
    """Reads the hand's pose and what it touches; makes actions that move it."""

    def __init__(self, simulation: Simulation) -> None:
        model = simulation.model
        self._simulation = simulation
        self._site = int(model.site(GRIP_SITE).id)
        self._fingers = [frozenset(int(model.geom(n).id) for n in names) for names in FINGERS]

    @property
    def position(self) -> np.ndarray:
        """(3,) metres: the point between the fingertips."""
        return self._simulation.hand

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3): the tool's axes as columns."""
        return np.array(self._simulation.data.site_xmat[self._site]).reshape(3, 3)

    @property
    def closed(self) -> float:
        """What the fingers are commanded, from -1 (open) to 1; it follows actions in 8 steps."""
        return -float(self._simulation.gripper_command[0])

    @property
    def finger_speed(self) -> float:
        """Metres per second, of the faster finger."""
        return float(np.abs(self._simulation.finger_velocities).max())

    @property
    def width(self) -> float:
        """Metres between the fingers; 0.08 is open."""
        first, second = self._simulation.fingers
        return float(first - second)

    def touches(self, geoms: frozenset[int]) -> bool:
        """Whether both fingers touch one of the geoms."""
        contact = self._simulation.data.contact
        others: set[int] = set()  # what the things touch
        for one, other in zip(contact.geom1.tolist(), contact.geom2.tolist(), strict=True):
            if one in geoms:
                others.add(other)
            if other in geoms:
                others.add(one)
        return all(finger & others for finger in self._fingers)

    def move(self, to: np.ndarray, finger_axis: np.ndarray, gripper: float) -> np.ndarray:
        """The action (7,) that moves the hand towards `to` (3,) and turns it to point down, with
        its fingers opening along the horizontal `finger_axis` (3,)."""
        return self.pose(to, pointing_down(finger_axis), gripper)

    def pose(self, to: np.ndarray, rotation: np.ndarray, gripper: float) -> np.ndarray:
        """The action (7,) that moves the hand towards the point `to` (3,) and the tool's axes
        towards `rotation` (3, 3)."""
        asked = GAIN * (to - self.position) / STEP
        # scaled, not clipped axis by axis: a clipped hand would leave the straight line
        asked = asked / max(1.0, float(np.abs(asked).max()))
        turn = TURN_GAIN * rotation_vector(rotation @ self.rotation.T) / TURN
        turn = turn / max(1.0, float(np.abs(turn).max()))
        return np.concatenate([asked, turn, [gripper]])

    def angle_to(self, rotation: np.ndarray) -> float:
        """Radians between the tool's axes and `rotation` (3, 3)."""
        return float(np.linalg.norm(rotation_vector(rotation @ self.rotation.T)))


def pointing_down(finger_axis: np.ndarray) -> np.ndarray:
    """(3, 3): a tool that points down, its fingers along the horizontal part of the axis."""
    along = np.array([finger_axis[0], finger_axis[1], 0.0])
    along /= np.linalg.norm(along)
    down = np.array([0.0, 0.0, -1.0])
    return np.stack([along, np.cross(down, along), down], axis=1)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """(3, 3) -> axis times angle (3,), 0 to pi."""
    mujoco: Any = importlib.import_module("mujoco")
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
