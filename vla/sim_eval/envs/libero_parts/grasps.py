"""Where a hand that points down takes a thing: across its narrow side, or by its rim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla.sim_eval.envs.libero_parts.shapes import Shape

WIDEST = 0.070  # metres that fit between open fingers with some room on either side
DEEPEST = 0.035  # metres below the top: a tall thing would meet the palm
LOWEST = 0.011  # metres above what it stands on: the fingertips reach below the grip's middle
RIM_DEPTH = 0.018  # metres below the rim of a bowl
WALL = 0.004  # metres from a bowl's outermost points to the middle of its wall
TURNS = np.deg2rad(np.arange(-90, 90, 15))


@dataclass(frozen=True)
class Grasp:
    """A pose of the hand.

    Attributes:
        point: (3,) metres, between the fingertips.
        finger_axis: (3,) horizontal, along which the fingers open.
    """

    point: np.ndarray
    finger_axis: np.ndarray


def grasp_of(shape: Shape, finger_axis: np.ndarray) -> Grasp:
    """The grasp that turns the hand least of those that fit.

    Args:
        finger_axis: (3,) of the hand as it is now.
    """
    points = shape.points().reshape(-1, 3)
    top, bottom = points[:, 2].max(), points[:, 2].min()
    upper = points[points[:, 2] > top - DEEPEST - 0.01]
    height = max(top - DEEPEST, bottom + LOWEST)
    now = np.arctan2(finger_axis[1], finger_axis[0])
    # small turns first: of two that fit equally well, the hand takes the nearer one
    for turn in sorted(TURNS, key=abs):
        axis = _horizontal(now + turn)
        low, high = (upper @ axis).min(), (upper @ axis).max()
        if high - low <= WIDEST:
            return Grasp(_middle(upper, axis, height), axis)
    return _rim_grasp(points, _horizontal(now))


def _rim_grasp(points: np.ndarray, axis: np.ndarray) -> Grasp:
    """At the side of the rim to which the fingers point, one finger within and one without."""
    top = points[:, 2].max()
    rim = points[points[:, 2] > top - 0.01]
    middle = (rim.min(axis=0) + rim.max(axis=0)) / 2
    radius = (rim @ axis).max() - middle @ axis - WALL
    point = middle + radius * axis
    return Grasp(np.array([point[0], point[1], top - RIM_DEPTH]), axis)


def _middle(points: np.ndarray, axis: np.ndarray, height: float) -> np.ndarray:
    """The point at this height in the middle of the points' extent along the axis and across."""
    across = np.array([-axis[1], axis[0], 0.0])
    along = sum(((points @ a).min() + (points @ a).max()) / 2 * a for a in (axis, across))
    return np.array([along[0], along[1], height])


def _horizontal(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle), 0.0])
