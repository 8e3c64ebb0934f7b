"""Which scripted expert solves which task of LIBERO, and for which tasks that is claimed."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from vla.sim_eval.envs.libero_parts.pick_and_place import PickAndPlace
from vla.sim_eval.envs.libero_parts.simulation import Simulation

SUITES = ("libero_object", "libero_spatial", "libero_goal")
"""Where experts were measured."""
OTHER_WORDS = "_lan"
"""Ending of the suites that say the same tasks otherwise."""
WITHOUT: dict[str, tuple[str, ...]] = {
    "libero_object": (),
    "libero_spatial": (
        "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_on_the_wooden_cabinet_and_place_it_on_the_plate",
    ),
    "libero_goal": (
        "open_the_middle_drawer_of_the_cabinet",
        "open_the_top_drawer_and_put_the_bowl_inside",
        "push_the_plate_to_the_front_of_the_stove",
        "turn_on_the_stove",
    ),
}
"""Tasks of these suites that no expert solves in at least 95 % of its measured starts
(benchmarks/results/libero_experts.json)."""


class Expert(Protocol):
    """Acts in one episode, by what is known of its simulation."""

    def action(self) -> np.ndarray:
        """(7,) in the present state, not yet clipped."""


def require_expert(suite: str, task: str) -> None:
    """Raises RuntimeError unless an expert is claimed for the task."""
    measured = suite.removesuffix(OTHER_WORDS)
    if measured not in SUITES:
        raise RuntimeError(
            f"suite {suite} has no scripted experts; choose one of {', '.join(SUITES)}"
        )
    if task in WITHOUT[measured]:
        raise RuntimeError(f"task {task} of {suite} has no scripted expert; leave it out")


def expert_of(simulation: Simulation) -> Expert:
    """The expert of the present episode, whose start is known.

    Raises RuntimeError if the goal is not one thing in or on another.
    """
    goals = simulation.goal
    if len(goals) != 1 or len(goals[0]) != 3 or not simulation.carried:
        raise RuntimeError(f"no scripted expert knows how to reach {goals}")
    relation, thing, goal = goals[0]
    return PickAndPlace(simulation, thing, relation.lower(), goal)
