"""Which scripted expert solves which task of LIBERO."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from vla.sim_eval.envs.libero_parts.pick_and_place import PickAndPlace
from vla.sim_eval.envs.libero_parts.simulation import Simulation


class Expert(Protocol):
    """Acts in one episode, by what is known of its simulation."""

    def action(self) -> np.ndarray:
        """(7,) in the present state, not yet clipped."""


def expert_for(suite: str, task: str, simulation: Simulation) -> Expert:
    """Raises RuntimeError if the task has no expert."""
    ((relation, *names),) = simulation.goal
    thing, goal = names
    return PickAndPlace(simulation, thing, relation.lower(), goal)
