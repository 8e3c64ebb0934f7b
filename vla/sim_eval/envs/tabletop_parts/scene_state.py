"""The whole scene and what is asked of it as numbers, for policies without eyes and ears.

With it a training takes a minute in place of an hour, so that objectives and data can be compared
over many trainings before a few of them are repeated with pictures and instructions.
"""

from __future__ import annotations

from typing import get_args

import numpy as np

from vla.sim_eval.envs.tabletop_parts.goals import Progress, Table
from vla.sim_eval.envs.tabletop_parts.language import DIRECTIONS, Command, Goal, GoalKind
from vla.sim_eval.envs.tabletop_parts.scene import HANDLE_GAP, SHAPES, SLOTS

KINDS: tuple[GoalKind, ...] = get_args(GoalKind)
GOALS = 2
"""Goals of the longest commands."""
DRAWER_GOALS = ("open", "close")


def _names() -> tuple[str, ...]:
    names = [f"{axis}_to_handle" for axis in "xyz"] + ["drawer"]
    for slot in range(SLOTS):
        names += [f"object{slot}_{axis}" for axis in "xyz"]
    for goal in range(GOALS):
        names += [f"goal{goal}_{kind}" for kind in KINDS]
        for what in ("thing", "to"):
            names += [f"goal{goal}_{what}_{axis}" for axis in "xyz"]
        names += [f"goal{goal}_half_height", f"goal{goal}_met"]
    return tuple(names)


SCENE_STATE_NAMES = _names()


def scene_state(table: Table, command: Command, progress: Progress) -> np.ndarray:
    """Where everything is and what is asked, float32 (len(SCENE_STATE_NAMES),).

    Positions are relative to the hand, metres. Of each goal: its kind (one number of 0 or 1 for
    each), the thing, where to (a push's is its direction), half of the thing's height, and whether
    it is met now. A command of one goal has zeros for the second.
    """
    hand = table.hand
    handle = _handle(table)
    numbers = [*(handle - hand), table.drawer]
    for slot in range(SLOTS):
        numbers += [*(table.position(slot) - hand)]
    for number in range(GOALS):
        if number < len(command.goals):
            numbers += _of_goal(table, command.goals[number], progress)
        else:
            numbers += [0.0] * (len(KINDS) + 8)
    return np.asarray(numbers, dtype=np.float32)


def _of_goal(table: Table, goal: Goal, progress: Progress) -> list[float]:
    kinds = [float(goal.kind == kind) for kind in KINDS]
    hand = table.hand
    met = float(progress.satisfied(goal))
    if goal.kind in DRAWER_GOALS:
        return [*kinds, *(_handle(table) - hand), 0.0, 0.0, 0.0, 0.0, met]
    half_height = SHAPES[table.things[goal.thing].shape].half_height
    return [*kinds, *(table.position(goal.thing) - hand), *_to(table, goal), half_height, met]


def _to(table: Table, goal: Goal) -> np.ndarray:
    """Where the thing shall go, from the hand (3,); a direction for a push, zeros for no place."""
    if goal.kind == "push":
        return np.array([*DIRECTIONS[str(goal.to)], 0.0])
    if goal.kind == "put":
        return table.fixture(str(goal.to)) - table.hand
    if goal.kind == "stack":
        return table.position(int(goal.to)) - table.hand
    return np.zeros(3)


def _handle(table: Table) -> np.ndarray:
    """The gap behind the drawer's handle, metres."""
    x, y, _ = table.fixture("cabinet")
    return np.array([x, y - table.drawer - HANDLE_GAP / 2, 0.018])


__all__ = ["SCENE_STATE_NAMES", "scene_state"]
