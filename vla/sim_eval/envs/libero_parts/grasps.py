"""Where a hand that points down takes a thing: across its narrow side, or by its rim."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla.sim_eval.envs.libero_parts.shapes import Shapes

WIDEST = 0.070  # metres that fit between open fingers with some room on either side
DEEPEST = 0.035  # metres below the top: a tall thing would meet the palm
LOWEST = 0.011  # metres above what it stands on: the fingertips reach below the grip's middle
RIM_DEPTH = 0.025  # metres below the rim of a bowl
WALL = 0.004  # metres from a bowl's outermost points to the middle of its wall
MARGIN = 0.004  # metres that are left free
TURNS = np.deg2rad(np.arange(-90, 91, 30))
WIDE, HALF = 0.040, 0.020  # metres from the grasp to a finger's inner side


def _hand(opening: float) -> np.ndarray:
    """(P, 3) points of a hand, in metres from the grasp: along the fingers' axis, across, up."""
    # closer to each other than a drawer's front is thick
    outwards = opening + np.array([0.0, 0.007, 0.014, 0.021])
    fingers = itertools.product((*outwards, *-outwards), (-0.010, 0.010), (-0.006, 0.020, 0.050))
    palm = itertools.product(np.linspace(-0.10, 0.10, 7), (-0.03, 0.03), (0.065, 0.10))
    return np.array([*fingers, *palm])


_HANDS = {WIDE: _hand(WIDE), HALF: _hand(HALF)}


@dataclass(frozen=True)
class Grasp:
    """A pose of the hand.

    Attributes:
        point: (3,) metres, between the fingertips.
        finger_axis: (3,) horizontal, along which the fingers open.
        opening: metres from the point to a finger before it closes, `WIDE` or `HALF`.
    """

    point: np.ndarray
    finger_axis: np.ndarray
    opening: float = WIDE


def grasp_of(thing: Shapes, around: Shapes, finger_axis: np.ndarray) -> Grasp:
    """The grasp that turns the hand least of those that fit and have room.

    Args:
        around: what may be in the way.
        finger_axis: (3,) of the hand as it is now.
    """
    possible = list(_grasps(thing.points().reshape(-1, 3), finger_axis))
    for grasp in possible:
        if not _is_blocked(grasp, around):
            return grasp
    return possible[0]


def _grasps(points: np.ndarray, finger_axis: np.ndarray) -> Iterator[Grasp]:
    """Small turns first: of two that fit equally well, the hand takes the nearer one."""
    top, bottom = points[:, 2].max(), points[:, 2].min()
    upper = points[points[:, 2] > top - DEEPEST - 0.01]
    height = max(top - DEEPEST, bottom + LOWEST)
    now = np.arctan2(finger_axis[1], finger_axis[0])
    axes = [_horizontal(now + turn) for turn in sorted(TURNS, key=abs)]
    wide = True
    for axis in axes:
        low, high = (upper @ axis).min(), (upper @ axis).max()
        if high - low <= WIDEST:
            wide = False
            yield Grasp(_middle(upper, axis, height), axis)
    if wide:
        for axis in axes:
            yield from (_by_rim(points, axis, side) for side in (1.0, -1.0))


def _by_rim(points: np.ndarray, axis: np.ndarray, side: float) -> Grasp:
    """With one finger within and one without, at that side of the middle."""
    top = points[:, 2].max()
    rim = points[points[:, 2] > top - 0.01]
    middle = (rim.min(axis=0) + rim.max(axis=0)) / 2
    outwards = side * axis
    radius = (rim @ outwards).max() - middle @ outwards - WALL
    point = middle + radius * outwards
    return Grasp(np.array([point[0], point[1], top - RIM_DEPTH]), axis, HALF)


def _is_blocked(grasp: Grasp, around: Shapes) -> bool:
    """Whether a finger or the palm would meet something else."""
    along = grasp.finger_axis
    axes = np.stack([along, [-along[1], along[0], 0.0], [0.0, 0.0, 1.0]])
    return around.reach(grasp.point + _HANDS[grasp.opening] @ axes, MARGIN)


def _middle(points: np.ndarray, axis: np.ndarray, height: float) -> np.ndarray:
    """The point at this height in the middle of the points' extent along the axis and across."""
    across = np.array([-axis[1], axis[0], 0.0])
    middle = np.zeros(3)
    for each in (axis, across):
        middle += ((points @ each).min() + (points @ each).max()) / 2 * each
    return np.array([middle[0], middle[1], height])


def _horizontal(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle), 0.0])
