"""The steps of a running episode as they come, and the episode that is made of them.

L: steps, A: action dimensions, H and W: image height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vla.data.episode import Episode, Scalar, encode_png

DECISION = "decision"
"""Column: of the chunk that the policy chose at a step, how many actions were executed; 0 at the
steps between, and where something else acted."""


class EpisodeRecorder:
    """Takes what is seen, done and rewarded, step by step."""

    def __init__(self, cameras: Sequence[str]) -> None:
        self.images: dict[str, list[bytes]] = {camera: [] for camera in cameras}
        self.states: list[np.ndarray] = []
        self.instructions: list[str] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.successes: list[bool] = []
        self.extras: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self.actions)

    def add_observation(self, observation: dict[str, Any], instruction: str) -> None:
        """What is seen at a step, and what is asked for at it."""
        for camera, images in self.images.items():
            # encoded at once: a worker with a long episode would hold all of its raw frames
            images.append(encode_png(observation["images"][camera]))
        self.states.append(np.asarray(observation["state"], dtype=np.float32))
        self.instructions.append(instruction)

    def add_action(self, action: np.ndarray, reward: float, success: bool, **extras: Any) -> None:
        """The action (A,) that followed the last observation, what it brought, and what else is
        known of the step."""
        self.actions.append(np.asarray(action, dtype=np.float32))
        self.rewards.append(reward)
        self.successes.append(success)
        for name, value in extras.items():
            self.extras.setdefault(name, []).append(value)

    def count_decision(self, step: int) -> None:
        """One more action was executed of the chunk that was chosen at `step`."""
        self.extras[DECISION][step] += 1

    def episode(
        self,
        *,
        terminated: bool,
        info: dict[str, Scalar],
        instructions: Sequence[str] | None = None,
    ) -> Episode:
        """The whole episode; `instructions`: other words for the steps' own."""
        texts = list(instructions or self.instructions)
        changes = len(set(texts)) > 1
        return Episode(
            images=dict(self.images),
            state=np.asarray(self.states, dtype=np.float32),
            actions=np.asarray(self.actions, dtype=np.float32),
            rewards=np.asarray(self.rewards, dtype=np.float32),
            success=np.asarray(self.successes, dtype=bool),
            terminated=terminated,
            instruction=texts[0],
            instructions=texts if changes else None,
            info=info,
            extras={name: np.asarray(values) for name, values in self.extras.items()},
        )


__all__ = ["DECISION", "EpisodeRecorder"]
