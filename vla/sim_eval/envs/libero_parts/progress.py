"""How far an episode has come, from where the hand and the things are."""

from __future__ import annotations

import numpy as np

from vla.sim_eval.envs.libero_parts.simulation import Simulation

REACHED = 0.12  # metres from the hand to what the task is about
LIFTED = 0.03  # metres above its start at which a thing has been grasped


class Progress:
    """Of one episode; begins in the present state of the simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._interest = simulation.of_interest
        self._carried = simulation.carried
        self._heights = {name: simulation.position(name)[2] for name in self._carried}
        self._reached = not self._interest
        self._grasped = not self._carried
        self._succeeded = False

    def update(self, success: bool) -> None:
        """Adds the present state."""
        # kept once true: what is released again was grasped all the same
        self._succeeded |= success
        hand = self._simulation.hand
        for name in self._interest if not self._reached else ():
            distance = np.linalg.norm(self._simulation.position(name) - hand)
            self._reached |= bool(distance < REACHED)
        for name in self._carried if not self._grasped else ():
            self._grasped |= self._rise(name) > LIFTED

    def _rise(self, name: str) -> float:
        return float(self._simulation.position(name)[2] - self._heights[name])

    def failure(self) -> str:
        """What is missing: "never reached", "no grasp" or "missed goal"; "" once solved."""
        if self._succeeded:
            return ""
        if not self._reached:
            return "never reached"
        return "missed goal" if self._grasped else "no grasp"
