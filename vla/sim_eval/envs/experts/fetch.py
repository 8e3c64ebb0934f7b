"""Scripted experts for the Fetch tasks: they know the state, and push, strike or carry by rule.

An action of (1, 0, 0) moves the hand by up to 5 cm in a control step.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

STEP = 0.05  # metres of hand displacement that an action of 1 asks for
OPEN, CLOSED = 1.0, -1.0
STEP_SECONDS = 0.04
DECELERATION = 0.1 * 9.81  # of the puck by friction, metres per second squared
AT_REST = 0.05  # metres per second
BEHIND = 0.075  # metres from the object at which the hand comes down
SLACK = (
    0.02  # metres that the hand may be off the line through object and goal before it starts again
)
TRAVEL = 0.1  # metres above the table at which the hand goes round the object
GRASPED_WIDTH = 0.054  # metres between the fingers around the block of 5 cm


class Expert(Protocol):
    """observation (10,) or (25,) and goal (3,) of a Fetch env -> action (4,), not yet clipped."""

    def __call__(self, observation: np.ndarray, goal: np.ndarray) -> np.ndarray: ...


def expert_of(task: str) -> Expert:
    """A new expert for an episode of "reach", "push", "slide" or "pick-and-place"."""
    experts: dict[str, type] = {
        "reach": Reach,
        "push": Push,
        "slide": Slide,
        "pick-and-place": PickAndPlace,
    }
    expert: Expert = experts[task]()
    return expert


def _move(offset: np.ndarray, gripper: float) -> np.ndarray:
    """The action that moves the hand by `offset` metres, or as far as it can in its direction."""
    asked = offset / STEP
    # scaled, not clipped axis by axis: a clipped hand would leave the straight line
    most = float(np.abs(asked).max())
    return np.append(asked / max(1.0, most), gripper)


class Reach:
    """Straight to the goal."""

    def __call__(self, observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return _move(goal - observation[:3], CLOSED)


class PickAndPlace:
    """Above the block, down, grasp, carry."""

    def __call__(self, observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        hand, block = observation[:3], observation[3:6]
        offset = block - hand
        if np.linalg.norm(offset[:2]) > 0.015:
            # from above: fingers that come from the side push the block away
            return _move(offset + [0.0, 0.0, TRAVEL], OPEN)
        if abs(offset[2]) > 0.01:
            return _move(offset, OPEN)
        # stands still until the fingers have closed on the block, or it would be left behind
        if observation[9] + observation[10] > GRASPED_WIDTH:
            return _move(offset, CLOSED)
        return _move(goal - block, CLOSED)


class Push:
    """Round the object to the side away from the goal, down, and towards the goal."""

    def __call__(self, observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        hand, thing = observation[:3], observation[3:6]
        distance, way = _way(thing, goal)
        offset = hand[:2] - thing[:2]
        along = float(offset @ way)
        across = offset - (offset @ way) * way
        # beside the line a push turns the object instead of moving it on
        if along > -0.02 or np.linalg.norm(across) > SLACK:
            return self._go_behind(hand, thing, way)
        down = thing[2] - hand[2]
        if hand[2] > thing[2] + 0.015:
            return _move(np.append(-across, down), CLOSED)
        # at most the way that is left, or the object would be pushed past the goal
        ahead = min(distance, STEP) * way - across
        return _move(np.append(ahead, down), CLOSED)

    def _go_behind(
        self,
        hand: np.ndarray,
        thing: np.ndarray,
        way: np.ndarray,
    ) -> np.ndarray:
        behind = thing[:2] - BEHIND * way
        to = np.append(behind, thing[2] + TRAVEL) - hand
        is_low = hand[2] < thing[2] + 0.05
        if is_low and np.linalg.norm(hand[:2] - thing[:2]) < 0.12:
            to[:2] = 0.0  # up first: it stands beside the object
        return _move(to, CLOSED)


class Slide(Push):
    """Behind the puck, and strokes towards the goal until the puck would come to rest
    there; again if it stops short.

    It fails if the goal is so far that a stroke at full speed is too weak, or so far to a side that
    the flat of the hand sends the puck another way.
    """

    def __init__(self) -> None:
        self._sliding = False

    def __call__(self, observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        distance, way = _way(observation[3:6], goal)
        # gymnasium gives metres per step, and the puck's relative to the hand
        velocity = (observation[14:16] + observation[20:22]) / STEP_SECONDS
        speed = float(velocity @ way)
        # v^2 / 2a: how far friction lets it slide; one more step passes before the hand can let go
        enough = speed**2 / (2 * DECELERATION) + speed * STEP_SECONDS >= distance
        moves = float(np.linalg.norm(velocity)) > AT_REST
        self._sliding = moves and (self._sliding or enough)
        if self._sliding:
            # back, so that the hand does not catch up with the puck and push once more
            retreat = -0.03 * way if speed > AT_REST else np.zeros(2)
            return _move(np.append(retreat, 0.0), CLOSED)
        return super().__call__(observation, goal)


def _way(
    thing: np.ndarray,
    goal: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Distance and direction (2,) over the table."""
    way = goal[:2] - thing[:2]
    distance = float(np.linalg.norm(way))
    # at the goal there is no direction: zero, instead of NaN
    return distance, way / max(distance, 1e-6)
