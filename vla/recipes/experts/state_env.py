"""A simulated robot as reinforcement learning libraries expect one: its state in, numbers out.

S state dimensions.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from vla.recipes.experts.actions import Actions
from vla.sim_eval.env import SimEnv
from vla.sim_eval.rollouts.seeding import episode_seed

CHECKED_STATES = 1000
"""States on which an exported actor is compared."""


class SeenStates:
    """The last `CHECKED_STATES` states that any of several envs has shown."""

    def __init__(self, state_dim: int) -> None:
        self._ring = np.zeros((CHECKED_STATES, state_dim), dtype=np.float32)
        self._count = 0

    def add(self, state: Float[np.ndarray, " S"]) -> None:
        """Keeps a copy; the oldest goes if there are too many."""
        self._ring[self._count % CHECKED_STATES] = state
        self._count += 1

    @property
    def full(self) -> bool:
        return self._count >= CHECKED_STATES

    def states(self) -> Float[np.ndarray, "N S"]:
        """A copy of those that are kept, at most `CHECKED_STATES`."""
        return self._ring[: min(self._count, CHECKED_STATES)].copy()


class StateEnv(gymnasium.Env[np.ndarray, Any]):
    """A `SimEnv` without pictures and words; observations are float32 (S,).

    Every episode has a start of its own, one of those that demonstrations are drawn from: no
    evaluation meets it (`vla.sim_eval.rollouts.seeding`).

    Args:
        env: the robot; it is closed with this one.
        actions: what the learner's actions mean.
        seen: where all states are kept.
        seed: of the starts.
        number: of the first episode.
        stride: from one episode's number to the next.
        end_at_success: whether a success is the end, a terminal state.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        env: SimEnv,
        actions: Actions,
        seen: SeenStates,
        *,
        seed: int,
        number: int = 0,
        stride: int = 1,
        end_at_success: bool = False,
    ) -> None:
        # drawing would take most of the time, and nobody looks
        env.render_images = False
        self.env = env
        self.actions = actions
        self.seen = seen
        self._seed = seed
        self._number = number
        self._stride = stride
        self._end_at_success = end_at_success
        states = (env.robot_spec.state_dim,)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, states, np.float32)
        self.action_space = actions.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The next start; `seed` seeds the spaces' random numbers alone."""
        super().reset(seed=seed)
        task = self.env.task.name
        # even numbers, whatever the library asks for: odd ones are those of evaluations
        start = episode_seed("collect", self._seed, task, self._number)
        self._number += self._stride
        observation, _ = self.env.reset(seed=start)
        return self._state(observation), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See gymnasium; `info` tells `success`."""
        # several actions at a time are converted, here one
        (robot_action,) = self.actions.to_robot(np.asarray(action)[None])
        observation, reward, terminated, truncated, info = self.env.step(robot_action)
        success = bool(info["success"])
        if self._end_at_success and success:
            terminated = True
        state = self._state(observation)
        return state, float(reward), terminated, truncated, {"success": success}

    def wander(self, seed: int) -> None:
        """Acts at random until `seen` is full, so that there are states to compare actors on."""
        self.action_space.seed(seed)
        over = True
        while not self.seen.full:
            if over:
                self.reset()
            _, _, terminated, truncated, _ = self.step(self.action_space.sample())
            over = terminated or truncated

    def _state(self, observation: dict[str, Any]) -> np.ndarray:
        state = np.asarray(observation["state"], dtype=np.float32)
        self.seen.add(state)
        return state

    def close(self) -> None:
        self.env.close()


__all__ = ["CHECKED_STATES", "SeenStates", "StateEnv"]
