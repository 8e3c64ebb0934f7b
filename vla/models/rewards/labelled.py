"""Steps of episodes with all that is known of them, wherever the episodes are.

Reward models learn from datasets on disk and from what a policy has just done, and see no
difference.

N steps of the episodes side by side, E episodes, B windows, T steps of a window, A action
dimensions, S state dimensions, H and W: image height and width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from vla.data import Episode, EpisodeDataset, Windows, returns_to_go
from vla.data.episode import read_info
from vla.data.loading.ranges import joined_ranges
from vla.types import Batch, ImageSize
from vla.types.images import resized


@dataclass(frozen=True)
class LabelledSteps:
    """Steps that can be gathered as windows.

    Attributes:
        gather: int (B,) rows -> the windows that end at them.
        lengths: int64 (E,), steps of each episode; they sum to N.
        solved: bool (N,), whether the task was solved after the step's action.
        rewards: float32 (N,), the recorded rewards.
        task_index: int64 (N,), row of `instructions`.
        instructions: the distinct texts.
        infos: what else was recorded of each episode.
        states: float32 (N, S), robot units.
        actions: float32 (N, A), robot units.
        recorded: which of "success" and "rewards" the data say themselves.
        name: what messages call them.
        dataset: where they come from; None of episodes in memory.
        numbers: (E,), of the episodes where they come from.
        terminated: bool (N,), True at the last steps of episodes that have truly ended.
        extras: name -> (N,) or (N, D), further recorded columns.
    """

    gather: Callable[[np.ndarray], Batch]
    lengths: np.ndarray
    solved: np.ndarray
    rewards: np.ndarray
    task_index: np.ndarray
    instructions: list[str]
    infos: Sequence[Mapping[str, Any]]
    states: np.ndarray
    actions: np.ndarray
    recorded: frozenset[str]
    name: str
    numbers: np.ndarray
    terminated: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    dataset: EpisodeDataset | None = None

    def __len__(self) -> int:
        return len(self.task_index)

    @property
    def starts(self) -> np.ndarray:
        """int64 (E,), each episode's first row."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def episode_of(self) -> np.ndarray:
        """int64 (N,), the episode of each step."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def episode_solved(self) -> np.ndarray:
        """bool (E,), whether any step of the episode was solved."""
        return np.logical_or.reduceat(self.solved, self.starts)

    @property
    def returns(self) -> np.ndarray:
        """float64 (E,), the sum of each episode's recorded rewards."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts)

    def achieved(self) -> list[tuple[int, str]]:
        """(row, instruction) of what failed episodes have solved in place of what they were asked.

        By `achieved` of an episode's info: {instruction: first step after which it was fulfilled}.
        """
        found = []
        for start, length, info in zip(self.starts, self.lengths, self.infos, strict=True):
            for text, step in _achieved_of(info).items():
                if 0 <= step < length:
                    found.append((int(start) + step, text))
        return found

    def chosen(self, episodes: np.ndarray) -> LabelledSteps:
        """The steps of some of the episodes, int (E',), in that order."""
        rows = joined_ranges(self.starts[episodes], self.lengths[episodes])
        gather = self.gather
        return replace(
            self,
            gather=lambda places: gather(rows[places]),
            lengths=self.lengths[episodes],
            solved=self.solved[rows],
            rewards=self.rewards[rows],
            task_index=self.task_index[rows],
            infos=[self.infos[episode] for episode in episodes.tolist()],
            states=self.states[rows],
            actions=self.actions[rows],
            numbers=self.numbers[episodes],
            terminated=self.terminated[rows],
            extras={name: values[rows] for name, values in self.extras.items()},
        )

    def with_starts(self) -> LabelledSteps:
        """The same steps, whose windows have the episode's first step in front: T + 1 steps."""
        gather, episode_of, starts = self.gather, self.episode_of, self.starts

        def both(rows: np.ndarray) -> Batch:
            index_B = np.asarray(rows, np.int64)
            first = gather(starts[episode_of[index_B]])
            # its window is padded on the left, so its last step is the episode's first; the words
            # are those of the present step, also where they have changed since
            return first.steps(-1, None).followed_by(gather(index_B))

        return replace(self, gather=both)

    @classmethod
    def of_windows(cls, windows: Windows) -> LabelledSteps:
        """The steps of a dataset's chosen episodes."""
        dataset = windows.dataset
        table = dataset.episodes.iloc[windows.episodes]
        frame_N = joined_ranges(table["first_frame"].to_numpy(np.int64), windows.lengths)
        columns = dataset.columns
        return cls(
            gather=windows.batch,
            lengths=windows.lengths,
            # of the step itself: that of windows holds from then on
            solved=np.asarray(columns.success[frame_N], bool),
            rewards=np.asarray(columns.rewards[frame_N], np.float32),
            task_index=windows.task_index,
            instructions=list(windows.instructions),
            infos=[read_info(text) for text in table["info"]],
            states=windows.states,
            actions=windows.actions,
            recorded=dataset.recorded,
            name=str(dataset.root),
            numbers=dataset.episode_numbers[windows.episodes],
            terminated=np.asarray(columns.terminated[frame_N], bool),
            extras={name: values[frame_N] for name, values in columns.extras.items()},
            dataset=dataset,
        )

    @classmethod
    def of_episodes(
        cls,
        episodes: Sequence[Episode],
        *,
        history: int,
        chunk: int = 1,
        cameras: Sequence[str],
        sizes: Mapping[str, ImageSize] | None = None,
    ) -> LabelledSteps:
        """The steps of episodes in memory; images are decoded once, here.

        Args:
            history: steps of a window, T.
            chunk: actions of a step.
            cameras: whose images the windows hold.
            sizes: camera -> the size at which its images are held, if they are larger.
        """
        texts = [text for episode in episodes for text in episode.step_instructions]
        instructions = list(dict.fromkeys(texts))
        number = {text: index for index, text in enumerate(instructions)}
        gather = _EpisodeWindows(episodes, history, chunk, cameras, sizes or {})
        return cls(
            gather=gather,
            lengths=gather.lengths,
            solved=np.concatenate([np.asarray(e.success, bool) for e in episodes]),
            rewards=gather.rewards,
            task_index=np.array([number[text] for text in texts], np.int64),
            instructions=instructions,
            infos=[episode.info for episode in episodes],
            states=gather.states,
            actions=gather.actions,
            recorded=frozenset(("success", "rewards", "terminated")),
            name="the episodes",
            numbers=np.arange(len(episodes)),
            terminated=gather.terminated,
            extras=_common_extras(episodes),
        )


def _common_extras(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """The extra columns that all of the episodes have."""
    shared = set.intersection(*[set(episode.extras) for episode in episodes])
    return {
        name: np.concatenate([np.asarray(episode.extras[name]) for episode in episodes])
        for name in sorted(shared)
    }


def _achieved_of(info: Mapping[str, Any]) -> dict[str, int]:
    try:
        found = json.loads(str(info.get("achieved", "{}")))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(text): step for text, step in found.items() if isinstance(step, int)}


class _EpisodeWindows:
    """Windows of episodes in memory, as `vla.data.Windows` makes them of those on disk."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        history: int,
        chunk: int,
        cameras: Sequence[str],
        sizes: Mapping[str, ImageSize],
    ) -> None:
        self.history = history
        self.chunk = chunk
        self.lengths = np.array([len(episode) for episode in episodes], np.int64)
        self.states = np.concatenate([np.asarray(e.state, np.float32) for e in episodes])
        self.actions = np.concatenate([np.asarray(e.actions, np.float32) for e in episodes])
        self.rewards = np.concatenate([np.asarray(e.rewards, np.float32) for e in episodes])
        self.success = np.concatenate([np.asarray(e.success, bool) for e in episodes])
        ends_E = np.cumsum(self.lengths)
        starts_E = ends_E - self.lengths
        self._start = np.repeat(starts_E, self.lengths)
        self._end = np.repeat(ends_E, self.lengths)
        self._texts = [text for episode in episodes for text in episode.step_instructions]
        # a window has one instruction: it begins where that one does
        changes = [i for i in range(1, len(self._texts)) if self._texts[i] != self._texts[i - 1]]
        edges = np.union1d(np.asarray(changes, np.int64), starts_E)
        self._first = edges[np.searchsorted(edges, np.arange(len(self._texts)), "right") - 1]
        self._returns = returns_to_go(self.rewards, self.lengths)
        self.terminated = np.zeros(len(self._texts), bool)
        self.terminated[ends_E - 1] = [bool(episode.terminated) for episode in episodes]
        # from each step on, as `Batch.success` has it
        self._solved_on = np.zeros(len(self._texts), bool)
        for start, end in zip(starts_E, ends_E, strict=True):
            solved = self.success[start:end]
            self._solved_on[start:end] = np.logical_or.accumulate(solved[::-1])[::-1]
        self._images = {}
        for camera in cameras:
            parts = [torch.from_numpy(episode.frames(camera)) for episode in episodes]
            size = sizes.get(camera)
            if size is not None and size.shrinks(tuple(parts[0].shape[1:3])):
                parts = [resized(part, size) for part in parts]
            self._images[camera] = torch.cat(parts)

    def __call__(self, rows: np.ndarray) -> Batch:
        index_B = np.asarray(rows, np.int64)
        first_B1 = self._first[index_B][:, None]
        step_BT = index_B[:, None] + np.arange(1 - self.history, 1)
        mask_BT = step_BT >= first_B1
        step_BT = np.maximum(step_BT, first_B1)
        # behind the episode's end a chunk repeats its last action, and does not count
        end_B11 = self._end[index_B][:, None, None]
        step_BTK = step_BT[..., None] + np.arange(self.chunk)
        inside_BTK = (step_BTK < end_B11) & mask_BT[..., None]
        step_BTK = np.minimum(step_BTK, end_B11 - 1)
        state_BTS = torch.from_numpy(self.states[step_BT])
        return Batch(
            images={name: frames[step_BT] for name, frames in self._images.items()},
            state=state_BTS,
            keyframe=state_BTS,
            instruction=[self._texts[row] for row in index_B],
            actions=torch.from_numpy(self.actions[step_BTK]),
            action_mask=torch.from_numpy(inside_BTK),
            rewards=torch.from_numpy(np.where(mask_BT, self.rewards[step_BT], np.float32(0))),
            terminals=torch.from_numpy(self.terminated[step_BT] & mask_BT),
            returns_to_go=torch.from_numpy(
                np.where(mask_BT, self._returns[step_BT], np.float32(0))
            ),
            success=torch.from_numpy(self._solved_on[step_BT] & mask_BT),
            timesteps=torch.from_numpy(step_BT - self._start[index_B][:, None]),
            mask=torch.from_numpy(mask_BT),
            task_index=torch.zeros(len(index_B), dtype=torch.int64),
        )


__all__ = ["LabelledSteps"]
