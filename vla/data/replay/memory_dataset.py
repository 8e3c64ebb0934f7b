"""Episodes in memory behind the members of `EpisodeDataset` that windows and objectives read.

E: episodes, N: steps of all episodes side by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from vla.data.episode import Episode
from vla.data.errors import DataError
from vla.data.extras import as_stored
from vla.data.format import Columns
from vla.types import Spec


class MemoryDataset:
    """A table of the given episodes, without their images. It does not change.

    Args:
        spec: of the robot.
        episodes: at least one.
        name: what messages call it.

    Raises DataError if there is no episode, or their extra columns differ.
    """

    def __init__(self, spec: Spec, episodes: Sequence[Episode], name: str = "the replay") -> None:
        if not episodes:
            raise DataError(f"{name}: has no episodes yet; play some first")
        self.spec = spec
        self.name = name
        self.root = Path(name)
        self._episodes = list(episodes)
        self.lengths = np.array([len(episode) for episode in episodes], np.int64)
        texts = dict.fromkeys(text for e in episodes for text in e.step_instructions)
        self.instructions = list(texts)

    @property
    def num_episodes(self) -> int:
        return len(self._episodes)

    def __len__(self) -> int:
        return len(self._episodes)

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """One row for each episode, as of `EpisodeDataset.episodes`."""
        rows = {text: row for row, text in enumerate(self.instructions)}
        return pd.DataFrame(
            {
                "episode_index": np.arange(len(self)),
                "task_index": [rows[episode.instruction] for episode in self._episodes],
                "instruction": [episode.instruction for episode in self._episodes],
                "length": self.lengths,
                "first_frame": np.cumsum(self.lengths) - self.lengths,
                "success": [bool(episode.success.any()) for episode in self._episodes],
                "terminated": [episode.terminated for episode in self._episodes],
                "return": [float(episode.rewards.sum()) for episode in self._episodes],
                "info": [json.dumps(episode.info) for episode in self._episodes],
            }
        )

    @cached_property
    def columns(self) -> Columns:
        """All numbers side by side."""
        played = self._episodes
        terminated_N = np.zeros(int(self.lengths.sum()), bool)
        ends = np.cumsum(self.lengths) - 1
        terminated_N[ends] = [episode.terminated for episode in played]
        names = list(played[0].extras)
        for number, episode in enumerate(played):
            if list(episode.extras) != names:
                raise DataError(
                    f"{self.name}: episode {number} has the columns {sorted(episode.extras)}, the "
                    f"first one {sorted(names)}: give all the same"
                )
        return Columns(
            state=np.concatenate([episode.state for episode in played]).astype(np.float32),
            actions=np.concatenate([episode.actions for episode in played]).astype(np.float32),
            rewards=np.concatenate([episode.rewards for episode in played]).astype(np.float32),
            success=np.concatenate([episode.success for episode in played]).astype(bool),
            terminated=terminated_N,
            extras={
                name: np.concatenate([as_stored(episode.extras[name]) for episode in played])
                for name in names
            },
        )

    @property
    def unchecked_columns(self) -> Columns:
        """`columns`: what a simulator gives is checked as it comes."""
        return self.columns

    @cached_property
    def task_of_frames(self) -> np.ndarray:
        """Row of `instructions` of each step, int64 (N,)."""
        rows = {text: row for row, text in enumerate(self.instructions)}
        texts = [text for episode in self._episodes for text in episode.step_instructions]
        return np.array([rows[text] for text in texts], np.int64)

    def require_recorded(self, what: Literal["success", "rewards"], needed_by: str) -> None:
        """Nothing: what was just played has both."""


__all__ = ["MemoryDataset"]
