"""Whether the goals of a command are reached on the tabletop, and how far a failed episode came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla.sim_eval.envs.tabletop_parts.language import DIRECTIONS, Command, Goal, Thing
from vla.sim_eval.envs.tabletop_parts.scene import (
    DRAWER_TRAVEL,
    RECEPTACLES,
    RIM_HEIGHT,
    SHAPES,
    SLOTS,
)

# Distances that decide success, with room for a policy that is less exact than the expert.
TOUCH_METRES = 0.045
"""Between the fingertips' middle and the object's middle."""
PUSH_METRES, PUSH_ASIDE_METRES = 0.06, 0.045
"""Least way in the asked direction, and greatest way across it."""
LIFT_METRES = 0.06
STACK_ASIDE_METRES = 0.024
DRAWER_OPEN_METRES, DRAWER_CLOSED_METRES = 0.75 * DRAWER_TRAVEL, 0.012
SLOW = 0.05  # m/s: slower counts as at rest
REACHED_METRES = 0.06  # from here on the hand has reached the object


class Table:
    """What the simulator knows, by name: positions, contacts, the drawer.

    Args:
        model, data: of the tabletop scene.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self.model, self.data = model, data
        self.things: tuple[Thing, ...] = ()
        # a free joint has 7 positions but 6 velocities, so their addresses differ
        joints = [model.joint(f"object{slot}") for slot in range(SLOTS)]
        self._addresses = [int(joint.qposadr[0]) for joint in joints]
        self._velocities = [int(joint.dofadr[0]) for joint in joints]
        self._drawer = int(model.joint("drawer").qposadr[0])
        self._bodies = [int(model.body(f"object{slot}").id) for slot in range(SLOTS)]
        self._fingers = [int(model.geom(f"{side}_finger").id) for side in ("left", "right")]
        fixtures = (*RECEPTACLES, "cabinet")
        self._mocap = {name: int(model.body(name).mocapid[0]) for name in fixtures}

    @property
    def hand(self) -> np.ndarray:
        """The middle between the fingertips (3,), metres."""
        # the hand's three slides come first in the model, then the fingers; a copy,
        # since qpos changes in place
        return np.array(self.data.qpos[:3])

    @property
    def opening(self) -> float:
        """Distance between the fingers, metres."""
        return float(self.data.qpos[3] + self.data.qpos[4])

    def position(self, slot: int) -> np.ndarray:
        """The middle of an object (3,), metres."""
        start = self._addresses[slot]
        return np.array(self.data.qpos[start : start + 3])

    def place(
        self,
        slot: int,
        position: np.ndarray,
        yaw: float,
    ) -> None:
        """Puts an object down: position (3,) of its middle in metres, yaw
        about the vertical in radians."""
        start = self._addresses[slot]
        # a quaternion (w, x, y, z)
        turn = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        self.data.qpos[start : start + 7] = [*position, *turn]

    def speed(self, slot: int) -> float:
        """Of an object's middle, metres per second."""
        start = self._velocities[slot]
        velocity = self.data.qvel[start : start + 3]
        return float(np.linalg.norm(velocity))

    def fixture(self, name: str) -> np.ndarray:
        """Where the bowl, the tray or the cabinet stands (3,), metres."""
        return np.array(self.data.mocap_pos[self._mocap[name]])

    def place_fixture(self, name: str, x: float, y: float) -> None:
        """Puts the bowl, the tray or the cabinet on the table."""
        self.data.mocap_pos[self._mocap[name]] = [x, y, 0.0]

    @property
    def drawer(self) -> float:
        """How far the drawer is out, metres."""
        return float(self.data.qpos[self._drawer])

    def set_drawer(self, metres: float) -> None:
        """Pulls the drawer out by so much."""
        self.data.qpos[self._drawer] = metres

    def touching(self, slot: int) -> int:
        """How many fingers touch the object."""
        pairs_C2 = self.data.contact.geom  # C contacts, the two geoms of each
        if not len(pairs_C2):
            return 0
        # of the object as a body: which of its geoms is switched on does not matter
        bodies_C2 = self.model.geom_bodyid[pairs_C2]
        of_object_C = (bodies_C2 == self._bodies[slot]).any(1)
        count = 0
        for finger in self._fingers:
            of_finger_C = (pairs_C2 == finger).any(1)
            count += bool((of_finger_C & of_object_C).any())
        return count

    def held(self, slot: int) -> bool:
        """Whether both fingers touch the object: one alone may push it, or lean on it."""
        return self.touching(slot) == 2

    def inside(self, slot: int, receptacle: str) -> bool:
        """The object's middle is within the rim and low enough to rest in the receptacle."""
        offset = self.position(slot) - self.fixture(receptacle)
        shape = SHAPES[self.things[slot].shape]
        # the tray is square, the bowl round
        across = offset[:2]
        away = np.abs(across).max() if receptacle == "tray" else np.linalg.norm(across)
        # half a radius from the rim: what leans on the rim lies with its
        # middle further out or higher
        within = away < RECEPTACLES[receptacle] - 0.5 * shape.radius
        low = offset[2] < shape.half_height + RIM_HEIGHT
        return bool(within and low)

    def stacked(self, slot: int, below: int) -> bool:
        """The object's middle is above the other one, at the height of resting on it."""
        offset = self.position(slot) - self.position(below)
        upper = SHAPES[self.things[slot].shape]
        lower = SHAPES[self.things[below].shape]
        height = upper.half_height + lower.half_height
        above = np.linalg.norm(offset[:2]) < STACK_ASIDE_METRES
        # to 8 mm: a tilted cube lies a little higher, one that has slipped off much lower
        return bool(above and abs(offset[2] - height) < 0.008)


@dataclass
class Progress:
    """Follows one episode: which goals have been reached, and where it went wrong.

    Attributes:
        starts: where each object was at the start (3,); what has moved is measured from there.
        done: goals of an ordered command that have been reached.
        success: whether the whole command is fulfilled now.
        steps: control steps so far.
    """

    table: Table
    command: Command
    starts: list[np.ndarray] = field(default_factory=list)
    done: int = 0
    success: bool = False
    steps: int = 0
    _reached: bool = False
    _grasped: bool = False
    _lost: tuple[str, int] | None = None  # how the object was lost, and at which step
    _moved_other: int = -1  # step at which a wrong object had moved; -1 if none has

    def __post_init__(self) -> None:
        slots = range(len(self.table.things))
        self.starts = [self.table.position(slot) for slot in slots]

    @property
    def goal(self) -> Goal:
        """The goal that is next."""
        goals = self.command.goals
        if self.command.ordered:
            return goals[min(self.done, len(goals) - 1)]
        unmet = [goal for goal in goals if not self.satisfied(goal)]
        return unmet[0] if unmet else goals[-1]

    def satisfied(self, goal: Goal) -> bool:
        """Whether a goal is reached in the present state."""
        table, slot = self.table, goal.thing
        if goal.kind == "open":
            return table.drawer > DRAWER_OPEN_METRES
        if goal.kind == "close":
            return table.drawer < DRAWER_CLOSED_METRES
        moved = table.position(slot) - self.starts[slot]
        if goal.kind == "touch":
            distance = np.linalg.norm(table.hand - table.position(slot))
            return bool(distance < TOUCH_METRES)
        if goal.kind == "push":
            along = np.array(DIRECTIONS[str(goal.to)])
            aside = abs(float(moved[:2] @ along[::-1]))
            far = float(moved[:2] @ along) > PUSH_METRES
            # on the table: carried there is not pushed
            return bool(far and aside < PUSH_ASIDE_METRES and moved[2] < 0.02)
        if goal.kind == "lift":
            # held: thrown up is not lifted
            return bool(moved[2] > LIFT_METRES and table.held(slot))
        if goal.kind == "put":
            there = table.inside(slot, str(goal.to))
        else:
            there = table.stacked(slot, int(goal.to))
        # let go and at rest: otherwise it would count while the hand still carries it past
        return there and table.touching(slot) == 0 and table.speed(slot) < SLOW

    def update(self) -> bool:
        """Call once after every control step; True if the whole command is fulfilled now."""
        self.steps += 1
        if self.command.ordered:
            self.success = self._advance()
        else:
            self.success = all(self.satisfied(goal) for goal in self.command.goals)
        self._watch()
        return self.success

    def _advance(self) -> bool:
        """Counts the goals that are reached in their order; whether the command is fulfilled.

        An earlier goal need not last ("pick up, then ..."), the last one must hold now.
        """
        goals = self.command.goals
        # several goals may be reached at one step
        while self.done < len(goals) and self.satisfied(goals[self.done]):
            self.done += 1
            if self.done < len(goals):
                # how far the episode came is counted for the goal that is next
                self._reached = self._grasped = False
                self._lost = None
        if self.done < len(goals):
            return False
        if self.satisfied(goals[-1]):
            return True
        self.done -= 1  # it did not last
        self._lost = ("not held", self.steps)
        return False

    def _watch(self) -> None:
        """Notes what a failure will be called."""
        goal, table = self.goal, self.table
        if self._moved_other < 0 and self._wrong_object_moved():
            self._moved_other = self.steps
        if goal.thing < 0:
            # the drawer's goals: its handle, which comes out with it
            handle = table.fixture("cabinet")
            handle += [0.0, -table.drawer - 0.045, 0.03]
            self._reached |= bool(np.linalg.norm(table.hand - handle) < REACHED_METRES)
            return
        position = table.position(goal.thing)
        self._reached |= bool(np.linalg.norm(table.hand - position) < REACHED_METRES)
        lifted = position[2] > self.starts[goal.thing][2] + 0.01
        held = table.held(goal.thing)
        if held and lifted:
            # a grasp takes back an earlier loss: what counts is the last time that it was lost
            self._grasped, self._lost = True, None
        elif self._grasped and not held and self._lost is None:
            fell = table.touching(goal.thing) == 0 and lifted
            self._lost = ("dropped" if fell else "missed goal", self.steps)

    def _wrong_object_moved(self) -> bool:
        """Whether an object that no goal speaks of is more than 4 cm from its start."""
        wanted = {goal.thing for goal in self.command.goals}
        wanted |= {goal.to for goal in self.command.goals if isinstance(goal.to, int)}
        for slot, start in enumerate(self.starts):
            distance = np.linalg.norm(self.table.position(slot) - start)
            # 4 cm: what is brushed in passing moves less
            if slot not in wanted and distance > 0.04:
                return True
        return False

    def failure(self) -> tuple[str, int]:
        """(what went wrong, the step at which it did); ("", -1) if nothing has."""
        if self.success:
            return "", -1
        grasps = self.goal.kind in ("lift", "put", "stack")
        # only while the right one is not in hand: later it may have been knocked over on the way
        if self._moved_other >= 0 and not self._grasped and not (self._reached and not grasps):
            return "wrong object", self._moved_other
        if not self._reached:
            return "never reached", self.steps
        if grasps and not self._grasped:
            return "no grasp", self.steps
        if self._lost is not None:
            return self._lost
        return "missed goal", self.steps
