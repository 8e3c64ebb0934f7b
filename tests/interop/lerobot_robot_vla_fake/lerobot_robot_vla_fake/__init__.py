"""A robot of LeRobot without hardware: it keeps what it showed and what it was sent."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot

JOINTS = ("shoulder.pos", "elbow.pos", "gripper.pos")
SIZE = (64, 96)


@RobotConfig.register_subclass("vla_fake")
@dataclass(kw_only=True)
class VlaFakeConfig(RobotConfig):
    """Nothing to set."""


class VlaFake(Robot):
    """Goes at once where it is sent; its camera shows another noise at each look."""

    config_class = VlaFakeConfig
    name = "vla_fake"

    def __init__(self, config: VlaFakeConfig) -> None:
        super().__init__(config)
        self.cameras = dict.fromkeys(["top"])  # LeRobot counts them
        self._connected = False
        self._joints = dict.fromkeys(JOINTS, 0.0)
        self._generator = np.random.default_rng(0)
        self._seen: list[np.ndarray] = []
        self._states: list[list[float]] = []
        self._sent: list[list[float]] = []

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(JOINTS, float), "top": (*SIZE, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(JOINTS, float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def calibrate(self) -> None:
        """Nothing to calibrate."""

    def configure(self) -> None:
        """Nothing to configure."""

    def get_observation(self) -> dict[str, Any]:
        image = self._generator.integers(0, 256, (*SIZE, 3), np.uint8)
        self._seen.append(image)
        self._states.append([self._joints[name] for name in JOINTS])
        return {**self._joints, "top": image}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self._joints = {name: float(action[name]) for name in JOINTS}
        self._sent.append([self._joints[name] for name in JOINTS])
        return action

    def disconnect(self) -> None:
        """Writes what happened to the file of the variable VLA_FAKE_LOG."""
        self._connected = False
        np.savez(
            os.environ["VLA_FAKE_LOG"],
            images=np.stack(self._seen),
            states=np.array(self._states, np.float32),
            actions=np.array(self._sent, np.float32),
        )
