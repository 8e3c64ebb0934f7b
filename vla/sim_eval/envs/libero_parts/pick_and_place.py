"""An expert that picks a thing up and puts it down: over it, down, close, up, over the goal, open.

What it does follows from the present state alone, so it can correct a policy.
"""

from __future__ import annotations

import numpy as np

from vla.sim_eval.envs.libero_parts.grasps import WIDE, Grasp, grasp_of
from vla.sim_eval.envs.libero_parts.hand import CLOSE, OPEN, Hand, pointing_down
from vla.sim_eval.envs.libero_parts.shapes import shapes_around, shapes_of
from vla.sim_eval.envs.libero_parts.simulation import Simulation

HOVER = 0.06  # metres above the grasp at which the hand comes over a thing
CLEARANCE = 0.05  # metres between what is carried and what it is carried over
LIFT = 0.08  # metres that a thing is lifted before it is carried anywhere
AT_REST = 0.01  # metres per second: the fingers have closed
HELD = 0.03  # metres between hand and grasp: a bowl tilts while it is carried
EMPTY = 0.003  # metres between fingers that have closed on nothing
NEAR = 0.012  # metres off, sideways, at which the hand goes down
AT_GRASP = 0.006  # metres off, in height, at which the fingers close
AT_GOAL = 0.012  # metres off, sideways and in height, at which the fingers open
ALIGNED = 0.12  # radians
DROP = 0.015  # metres above the goal at which a thing is let go
INTO = 0.02  # metres below a rim to which the fingers go


class PickAndPlace:
    """Brings one thing in or on another.

    Args:
        simulation: of the task.
        thing: object that is carried.
        relation: "in" or "on".
        goal: object or region that it is brought to.
    """

    def __init__(self, simulation: Simulation, thing: str, relation: str, goal: str) -> None:
        self._simulation = simulation
        self._goal = goal
        self._into = relation == "in"
        self._hand = Hand(simulation)
        self._thing = shapes_of(simulation, thing)
        self._around = shapes_around(simulation, thing)
        self._name = thing
        self._container = shapes_of(simulation, simulation.owner(goal))
        # it may stand in a drawer, or on something: first of all it is lifted out
        self._start = self._thing.bottom

    def action(self) -> np.ndarray:
        """(7,) in the present state."""
        hand = self._hand
        grasp = grasp_of(self._thing, self._around, hand.rotation[:, 0])
        touching = hand.touches(self._thing.geoms)
        if (touching or self._at_grasp(grasp)) and self._at_goal():
            return hand.move(hand.position, grasp.finger_axis, OPEN)
        near = np.linalg.norm(grasp.point - hand.position) < HELD
        if near and hand.closed >= 1.0 and (touching or hand.width > EMPTY):
            if hand.finger_speed < AT_REST:
                return self._carry(grasp)
            return hand.move(hand.position, grasp.finger_axis, CLOSE)
        return self._approach(grasp)

    # --- the ways -------------------------------------------------------------------------------

    def _approach(self, grasp: Grasp) -> np.ndarray:
        hand = self._hand
        off = grasp.point - hand.position
        sideways = float(np.linalg.norm(off[:2]))
        turned = hand.angle_to(pointing_down(grasp.finger_axis)) > ALIGNED
        if self._at_grasp(grasp):
            return hand.move(grasp.point, grasp.finger_axis, CLOSE)
        to = grasp.point
        if sideways > NEAR or turned:
            # from above: fingers that come from the side push the thing away
            over = max(grasp.point[2] + HOVER, self._thing.top + HOVER / 2)
            to = np.array([grasp.point[0], grasp.point[1], over])
            if hand.position[2] < over - 0.02:
                to[:2] = hand.position[:2]
        return hand.move(to, grasp.finger_axis, self._opened(grasp))

    def _opened(self, grasp: Grasp) -> float:
        """The gripper's action that opens the fingers as far as the grasp wants them."""
        if grasp.opening == WIDE:
            return OPEN
        # between two walls there is no room for fingers that are wide open; 0 keeps them
        half = 0.15
        if self._hand.closed > half:
            return OPEN
        return CLOSE if self._hand.closed < -half else 0.0

    def _carry(self, grasp: Grasp) -> np.ndarray:
        hand = self._hand
        goal = self._release()
        off = goal - hand.position
        height = self._carrying_height()
        to = goal
        if np.linalg.norm(off[:2]) > AT_GOAL:
            to = np.array([goal[0], goal[1], height])
            if hand.position[2] < height - 0.03:
                to[:2] = hand.position[:2]
        return hand.move(to, grasp.finger_axis, CLOSE)

    # --- where to -------------------------------------------------------------------------------

    def _release(self) -> np.ndarray:
        """(3,) where the hand opens: the thing's middle is over the goal's."""
        goal = self._simulation.position(self._goal)
        hand = self._hand.position
        aside = hand[:2] - self._simulation.position(self._name)[:2]
        hangs = hand[2] - self._thing.bottom
        height = goal[2] + hangs + DROP
        if self._into:
            # the hand is wider than what it puts things in: fingers alone go below the rim
            height = max(height, self._container.top - INTO)
        return np.array([*(goal[:2] + aside), height])

    def _carrying_height(self) -> float:
        hangs = self._hand.position[2] - self._thing.bottom
        over = self._container.top if self._into else self._simulation.position(self._goal)[2]
        return float(hangs + max(over + CLEARANCE, self._start + LIFT))

    def _at_grasp(self, grasp: Grasp) -> bool:
        off = grasp.point - self._hand.position
        return bool(np.linalg.norm(off[:2]) < NEAR and abs(off[2]) < AT_GRASP)

    def _at_goal(self) -> bool:
        off = self._release() - self._hand.position
        return bool(np.linalg.norm(off[:2]) < AT_GOAL and off[2] > -AT_GOAL)
