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
        self._addresses = [int(model.joint(f"object{slot}").qposadr[0]) for slot in range(SLOTS)]
        self._velocities = [int(model.joint(f"object{slot}").dofadr[0]) for slot in range(SLOTS)]
        self._drawer = int(model.joint("drawer").qposadr[0])
        self._bodies = [int(model.body(f"object{slot}").id) for slot in range(SLOTS)]
        self._fingers = [int(model.geom(f"{side}_finger").id) for side in ("left", "right")]
        self._mocap = {name: int(model.body(name).mocapid[0]) for name in (*RECEPTACLES, "cabinet")}

    @property
    def hand(self) -> np.ndarray:
        """The middle between the fingertips (3,), metres."""
        return np.array(self.data.qpos[:3])

    @property
    def opening(self) -> float:
        """Distance between the fingers, metres."""
        return float(self.data.qpos[3] + self.data.qpos[4])

    def position(self, slot: int) -> np.ndarray:
        """The middle of an object (3,), metres."""
        start = self._addresses[slot]
        return np.array(self.data.qpos[start : start + 3])

    def place(self, slot: int, position: np.ndarray, yaw: float) -> None:
        start = self._addresses[slot]
        self.data.qpos[start : start + 7] = [*position, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def speed(self, slot: int) -> float:
        start = self._velocities[slot]
        return float(np.linalg.norm(self.data.qvel[start : start + 3]))

    def fixture(self, name: str) -> np.ndarray:
        """Where the bowl, the tray or the cabinet stands (3,), metres."""
        return np.array(self.data.mocap_pos[self._mocap[name]])

    def place_fixture(self, name: str, x: float, y: float) -> None:
        self.data.mocap_pos[self._mocap[name]] = [x, y, 0.0]

    @property
    def drawer(self) -> float:
        """How far the drawer is out, metres."""
        return float(self.data.qpos[self._drawer])

    def set_drawer(self, metres: float) -> None:
        self.data.qpos[self._drawer] = metres

    def touching(self, slot: int) -> int:
        """How many fingers touch the object."""
        pairs = self.data.contact.geom
        if not len(pairs):
            return 0
        bodies = self.model.geom_bodyid[pairs]
        mine = (bodies == self._bodies[slot]).any(1)
        return sum(bool(((pairs == finger).any(1) & mine).any()) for finger in self._fingers)

    def held(self, slot: int) -> bool:
        """Between both fingers."""
        return self.touching(slot) == 2

    def inside(self, slot: int, receptacle: str) -> bool:
        """The object's middle is within the rim and low enough to rest in the receptacle."""
        offset = self.position(slot) - self.fixture(receptacle)
        shape = SHAPES[self.things[slot].shape]
        away = np.abs(offset[:2]).max() if receptacle == "tray" else np.linalg.norm(offset[:2])
        return bool(
            away < RECEPTACLES[receptacle] - 0.5 * shape.radius
            and offset[2] < shape.half_height + RIM_HEIGHT
        )

    def stacked(self, slot: int, below: int) -> bool:
        """The object's middle is above the other one, at the height of resting on it."""
        offset = self.position(slot) - self.position(below)
        height = (
            SHAPES[self.things[slot].shape].half_height
            + SHAPES[self.things[below].shape].half_height
        )
        return bool(
            np.linalg.norm(offset[:2]) < STACK_ASIDE_METRES and abs(offset[2] - height) < 0.008
        )


@dataclass
class Progress:
    """Follows one episode: which goals have been reached, and where it went wrong."""

    table: Table
    command: Command
    starts: list[np.ndarray] = field(default_factory=list)
    done: int = 0  # goals of an ordered command that have been reached
    success: bool = False
    steps: int = 0
    _reached: bool = False
    _grasped: bool = False
    _lost: tuple[str, int] | None = None
    _moved_other: int = -1

    def __post_init__(self) -> None:
        self.starts = [self.table.position(slot) for slot in range(len(self.table.things))]

    @property
    def goal(self) -> Goal:
        """The goal that is next."""
        if self.command.ordered:
            return self.command.goals[min(self.done, len(self.command.goals) - 1)]
        open_goals = [goal for goal in self.command.goals if not self.satisfied(goal)]
        return open_goals[0] if open_goals else self.command.goals[-1]

    def satisfied(self, goal: Goal) -> bool:
        """Whether a goal is reached in the present state."""
        table, slot = self.table, goal.thing
        if goal.kind == "open":
            return table.drawer > DRAWER_OPEN_METRES
        if goal.kind == "close":
            return table.drawer < DRAWER_CLOSED_METRES
        moved = table.position(slot) - self.starts[slot]
        if goal.kind == "touch":
            return bool(np.linalg.norm(table.hand - table.position(slot)) < TOUCH_METRES)
        if goal.kind == "push":
            along = np.array(DIRECTIONS[str(goal.to)])
            aside = abs(float(moved[:2] @ along[::-1]))
            return (
                float(moved[:2] @ along) > PUSH_METRES
                and aside < PUSH_ASIDE_METRES
                and moved[2] < 0.02
            )
        if goal.kind == "lift":
            return bool(moved[2] > LIFT_METRES and table.held(slot))
        there = (
            table.inside(slot, str(goal.to))
            if goal.kind == "put"
            else table.stacked(slot, int(goal.to))
        )
        return there and table.touching(slot) == 0 and table.speed(slot) < SLOW

    def update(self) -> bool:
        """Call once after every control step; True where the whole command is fulfilled now."""
        self.steps += 1
        if self.command.ordered:
            while self.done < len(self.command.goals) and self.satisfied(
                self.command.goals[self.done]
            ):
                self.done += 1
                if self.done < len(self.command.goals):
                    self._reached = self._grasped = False
                    self._lost = None
            self.success = self.done == len(self.command.goals) and self.satisfied(
                self.command.goals[-1]
            )
            if self.done == len(self.command.goals) and not self.success:
                self.done -= 1  # it did not last
                self._lost = ("not held", self.steps)
        else:
            self.success = all(self.satisfied(goal) for goal in self.command.goals)
        self._watch()
        return self.success

    def _watch(self) -> None:
        goal = self.goal
        wanted = {g.thing for g in self.command.goals} | {
            g.to for g in self.command.goals if isinstance(g.to, int)
        }
        if self._moved_other < 0:
            for slot, start in enumerate(self.starts):
                if slot not in wanted and np.linalg.norm(self.table.position(slot) - start) > 0.04:
                    self._moved_other = self.steps
        if goal.thing < 0:
            handle = self.table.fixture("cabinet") + np.array(
                [0.0, -self.table.drawer - 0.045, 0.03]
            )
            self._reached |= bool(np.linalg.norm(self.table.hand - handle) < REACHED_METRES)
            return
        self._reached |= bool(
            np.linalg.norm(self.table.hand - self.table.position(goal.thing)) < REACHED_METRES
        )
        lifted = self.table.position(goal.thing)[2] > self.starts[goal.thing][2] + 0.01
        held = self.table.held(goal.thing)
        if held and lifted:
            self._grasped, self._lost = True, None
        elif self._grasped and not held and self._lost is None:
            self._lost = (
                "dropped" if self.table.touching(goal.thing) == 0 and lifted else "missed goal",
                self.steps,
            )

    def failure(self) -> tuple[str, int]:
        """(what went wrong, the step at which it did); ("", -1) where nothing has."""
        if self.success:
            return "", -1
        grasps = self.goal.kind in ("lift", "put", "stack")
        if self._moved_other >= 0 and not self._grasped and not (self._reached and not grasps):
            return "wrong object", self._moved_other
        if not self._reached:
            return "never reached", self.steps
        if grasps and not self._grasped:
            return "no grasp", self.steps
        if self._lost is not None:
            return self._lost
        return "missed goal", self.steps
