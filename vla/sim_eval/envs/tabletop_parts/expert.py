"""A scripted expert for every goal of the tabletop.

What it does depends on the present state alone (which goal is next, where hand and things are), so
that a policy that sees one frame can imitate it, and so that it recovers from any disturbance.

Positions are those of the middle between the fingertips, metres; axes as in `scene.py`.
"""

from __future__ import annotations

import numpy as np

from vla.sim_eval.envs.tabletop_parts.goals import Progress
from vla.sim_eval.envs.tabletop_parts.language import DIRECTIONS, Goal
from vla.sim_eval.envs.tabletop_parts.scene import HANDLE_GAP, SHAPES

TRAVEL_Z = 0.15
"""Height of the fingertips on the way; whatever is carried passes over everything."""
# It slows down in proportion to the way that is left. At full speed up to the goal the
# direction flips within a centimetre, and frames near the goal teach nothing to a policy that
# does not yet see so exactly.
BRAKING = np.array([0.10, 0.10, 0.08])
"""Distances from the target at which the hand begins to slow down, metres."""
PUSH_HEIGHT = 0.012
"""Of the fingertips while pushing: just above the table, so that fingers meet the lowest
object along its whole side."""
OPEN, CLOSED = 1.0, -1.0


class Expert:
    """Actions for one episode."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.table = progress, progress.table

    def action(self) -> np.ndarray:
        """(dx, dy, dz, gripper), each within [-1, 1]."""
        goal = self.progress.goal
        target, gripper = self._plan(goal)
        left = target - self.table.hand
        speed = np.clip(left / BRAKING, -1.0, 1.0)
        return np.array([*speed, gripper], dtype=np.float32)

    def _plan(self, goal: Goal) -> tuple[np.ndarray, float]:
        """Where the fingertips go next (3,), and what the gripper does."""
        if goal.kind == "touch":
            # 2 mm below the top: towards a target on the surface the braking hand
            # would come to rest above it
            height = self._half(goal.thing) - 0.002
            top = self.table.position(goal.thing) + [0, 0, height]
            return self._descend(top, within=0.02), CLOSED
        if goal.kind == "push":
            return self._push(goal), CLOSED
        if goal.kind == "open":
            return self._pull_drawer(), CLOSED
        if goal.kind == "close":
            return self._push_drawer(), CLOSED
        return self._carry(goal)

    def _half(self, slot: int) -> float:
        return SHAPES[self.table.things[slot].shape].half_height

    def _descend(
        self, target: np.ndarray, *, within: float, height: float = TRAVEL_Z
    ) -> np.ndarray:
        """Towards a point through a funnel above it: high where it is far, straight
        down `within` its axis (metres).

        A hand that is lower than the funnel goes up before it goes across.
        """
        hand = self.table.hand
        left = target[:2] - hand[:2]
        away = max(0.0, float(np.linalg.norm(left)) - within)
        # 7 up for 1 across over the first centimetre, then 45 degrees, and
        # never higher than `height`
        funnel = target[2] + min(6.0 * away, 0.06) + away
        z = min(max(height, target[2]), funnel)
        # 1 within a centimetre of the funnel's height, 0 from 5 cm below it: continuous,
        # so that actions do not jump
        too_low = z - hand[2] - 0.01
        across = np.clip(1.0 - too_low / 0.04, 0.0, 1.0)
        return np.array([*(hand[:2] + across * left), z])

    def _push(self, goal: Goal) -> np.ndarray:
        """Down behind the object, seen in the direction asked for, then through it."""
        table = self.table
        thing = table.position(goal.thing)
        shape = SHAPES[table.things[goal.thing].shape]
        along = np.array(DIRECTIONS[str(goal.to)])
        # half of the closed fingers in the direction of the push: two boxes of
        # 0.014 side by side along x
        thickness = 0.014 if along[0] else 0.011
        offset = table.hand[:2] - thing[:2]
        # directions are axes, so the reversed vector is the one across
        behind = -float(offset @ along)
        aside = abs(float(offset @ along[::-1]))
        contact = shape.radius + thickness
        is_low = table.hand[2] < 0.035
        is_behind = 0.3 * shape.radius < behind < contact + 0.045
        if is_low and aside < 0.014 and is_behind:
            # a target 5 cm beyond the object's middle: the braking hand must
            # still be fast enough to move it
            return np.array([*(thing[:2] + 0.05 * along), PUSH_HEIGHT])
        # 24 mm of air, so that the descent touches nothing
        start = thing[:2] - (contact + 0.024) * along
        return self._descend(np.array([*start, PUSH_HEIGHT]), within=0.010)

    def _pull_drawer(self) -> np.ndarray:
        """Down into the gap between handle and drawer, then towards the camera with the
        handle before the fingers."""
        x, y, _ = self.table.fixture("cabinet")
        y_gap = y - self.table.drawer - HANDLE_GAP / 2 - 0.001
        gap = np.array([x, y_gap, 0.018])
        offset = self.table.hand - gap
        # wider than the funnel's axis: once it pulls, a lag behind the moving
        # handle must not send it up again
        is_within = abs(offset[0]) < 0.025 and abs(offset[1]) < 0.018
        if is_within and offset[2] < 0.014:
            return gap - np.array([0.0, 0.045, 0.0])
        return self._descend(gap, within=0.008)

    def _push_drawer(self) -> np.ndarray:
        """Down in front of the handle, then away from the camera against it."""
        x, y, _ = self.table.fixture("cabinet")
        y_front = y - self.table.drawer - HANDLE_GAP - 0.040
        front = np.array([x, y_front, 0.020])
        offset = self.table.hand - front
        is_before = abs(offset[0]) < 0.03 and -0.03 < offset[1] < 0.03
        if is_before and offset[2] < 0.018:
            return front + np.array([0.0, 0.09, 0.0])
        return self._descend(front, within=0.012)

    def _carry(self, goal: Goal) -> tuple[np.ndarray, float]:
        """Grasp, then lift, put or stack."""
        table, slot = self.table, goal.thing
        thing, hand = table.position(slot), table.hand
        # lets go and leaves upwards: the goal counts only when nothing touches the object any more
        if self._rests(goal):
            return np.array([*hand[:2], TRAVEL_Z]), OPEN
        # fingertips a little below the middle, so that the fingers enclose
        # it, but clear of the table
        height = max(0.010, thing[2] - 0.012)
        grip = np.array([*thing[:2], height])
        offset = hand - grip
        if table.held(slot):
            return self._deliver(goal, hand - thing), CLOSED
        aside = np.linalg.norm(offset[:2])
        if aside < 0.012 and abs(offset[2]) < 0.012:
            return grip, CLOSED
        above = max(TRAVEL_Z, thing[2] + 0.06)
        return self._descend(grip, within=0.010, height=above), OPEN

    def _rests(self, goal: Goal) -> bool:
        """Whether the object is where it belongs; something that is to be lifted
        never is, it has to be held."""
        if goal.kind == "put":
            return self.table.inside(goal.thing, str(goal.to))
        return goal.kind == "stack" and self.table.stacked(goal.thing, int(goal.to))

    def _deliver(self, goal: Goal, grip: np.ndarray) -> np.ndarray:
        """Where the hand goes with the object; grip: from the object's middle to the hand (3,)."""
        table, slot = self.table, goal.thing
        if goal.kind == "lift":
            return np.array([*table.hand[:2], 0.17])
        half = self._half(slot)
        # a few millimetres above, so that the hand never presses on what is below
        if goal.kind == "put":
            place = table.fixture(str(goal.to))
            place[2] += half + 0.006
        else:
            below = int(goal.to)
            place = table.position(below)
            place[2] += self._half(below) + half + 0.002
        carry = max(TRAVEL_Z, place[2] + 0.05)
        # plus `grip`: an object that sits askew in the fingers still comes down in the right place
        return self._descend(place + grip, within=0.008, height=carry)
