"""How well a simulated world repeats what was recorded: the episode's actions once more in it.

L: steps that are compared, S: state dimensions, A: action dimensions, D: hidden numbers.
"""

from __future__ import annotations

import numpy as np

from vla.common.errors import UserError
from vla.sim_eval.env import SimEnv

STILL = 1e-6
"""A number of the state that varies less says nothing, and is left out."""
START = 0.05
"""How far the start may be from the recorded one, in standard deviations of the episode."""


class IdentifyError(UserError):
    """An episode, or an env, out of which nothing can be identified."""


class Replay:
    """Compares worlds with one recorded episode.

    Args:
        env: it is reset for every world.
        seed: of the recorded episode.
        state: what was seen before each action (L, S).
        actions: what was executed (L, A).

    Raises IdentifyError if the env does not start where the episode did, or if nothing moves.
    """

    def __init__(self, env: SimEnv, seed: int, state: np.ndarray, actions: np.ndarray) -> None:
        self.env, self.seed = env, seed
        self._state, self._actions = state.astype(float), actions
        # each number of the state by its own spread: metres and radians a second count alike
        self._scale = self._state.std(0)
        self._moves = self._scale > STILL
        if len(state) < 2 or not self._moves.any():
            raise IdentifyError(
                f"steps: nothing moves within the first {len(state)} steps of the episode; "
                "choose another episode, or more steps"
            )
        self.count = 0
        """How often the episode was played."""
        self._check_start()

    def _check_start(self) -> None:
        self.env.render_images = False
        start = self.env.reset(seed=self.seed)[0]["state"]
        off = np.abs(start - self._state[0])[self._moves] / self._scale[self._moves]
        if off.max() > START:
            name = np.array(self.env.robot_spec.state_names)[self._moves][off.argmax()]
            raise IdentifyError(
                f"env: with seed {self.seed} it starts elsewhere than the episode ({name} differs "
                "most): give it the keys that the dataset was made with (`vla data info` shows "
                "them as `collect`)"
            )

    def states(self, world: np.ndarray | None) -> np.ndarray:
        """What is seen before each action (L, S), in a world of these hidden numbers (D,); None:
        in that of the seed."""
        self.count += 1
        observation = self.env.reset(seed=self.seed)[0]
        if world is not None:
            self.env.set_privileged(world)
        seen = [observation["state"]]
        # an episode that ends earlier here goes on: what it does after a fall differs, and counts
        for action in self._actions[:-1]:
            seen.append(self.env.step(action)[0]["state"])
        return np.array(seen, dtype=float)

    def distance(self, world: np.ndarray | None) -> float:
        """How far a world is from repeating the episode: 0 repeats it, 1 shares nothing with it.

        The mean of e^2 / (1 + e^2), e the difference of a number of the state in standard
        deviations: what has come apart altogether counts no more the farther it goes.
        """
        off = (self.states(world) - self._state)[1:, self._moves] / self._scale[self._moves]
        # a simulator that has blown up is no closer than one that has fallen
        squares = np.nan_to_num(off, nan=np.inf, posinf=np.inf, neginf=np.inf) ** 2
        shares = np.where(np.isinf(squares), 1.0, squares / (1 + np.minimum(squares, 1e300)))
        return float(shares.mean())


__all__ = ["IdentifyError", "Replay"]
