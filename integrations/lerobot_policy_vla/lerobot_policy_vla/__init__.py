"""Policies of vla for LeRobot, which imports this module by its distribution's name."""

from lerobot_policy_vla.configuration_vla import VlaConfig

__all__ = ["VlaConfig"]
