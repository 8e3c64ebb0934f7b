"""Contiguous windows of trajectories as batches, gathered from arrays without a loop over samples.

N: frames of the chosen episodes, B: windows in a batch, T: steps of a window, K: actions per chunk,
A: action dimensions, S: state dimensions, H and W: image height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from vla.data.errors import DataError
from vla.data.loading.frame_cache import FrameCache, Storage
from vla.data.loading.keyframes import next_keyframes
from vla.data.loading.ranges import spans
from vla.data.loading.row_copy import Gather
from vla.data.reader import EpisodeDataset
from vla.data.returns import returns_to_go
from vla.data.rewards import RewardConfig, shape_rewards
from vla.types import Batch


class Windows:
    """One window for each step t of the chosen episodes, with t as its last (current) step.

    A window has `history` steps, left-padded at the episode's start, and with `next_step` = n > 0 the n steps after t:
    `batch.steps(0, -n)` and `batch.steps(n, None)` are then the current window and the one n steps later. Steps that
    the episode does not have are masked, whether it terminated or was truncated.

    Where `mask` is False: images and state repeat the nearest real step, rewards and returns are 0,
    terminals and action masks are False. Chunks that run past the end repeat the episode's last action.

    Args:
        dataset: where the episodes are.
        history: steps of a window, at least 1.
        chunk: actions per step, at least 1.
        next_step: how many steps after the current one to add, for temporal-difference targets.
        discount: of `returns_to_go`.
        rewards: which rewards and terminals the windows hold; by default those of the dataset.
        cache: where decoded frames are kept, "ram", "disk" or "shared" (see `FrameCache`).
        episodes: indices of the episodes to use; all by default.
        cameras: which cameras to load; all of the spec by default.
        cache_folder: where caches lie (see `FrameCache`).
        progress: called with (frames done, frames in all) while frames are decoded.
        threads: that copy the images of a batch, the caller's included.
        pin_memory: whether images of batches are in pinned memory, for a GPU.

    Attributes:
        actions: float32 (N, A) of the chosen episodes.
        states: float32 (N, S).
        rewards: float32 (N,).
        returns: float32 (N,), discounted returns to go.
        terminals: bool (N,).
        reward_config: what made the three of them.
        success: bool (N,), whether the episode is solved at that step or later.
        task_index: int64 (N,), row of `instructions`.
        instructions: all of the dataset's.
        lengths: int64 (E,), steps of the chosen episodes; all arrays above hold them side by side.

    Raises:
        DataError: no episode is chosen or an index is unknown, a number is NaN, or an image is damaged.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        *,
        history: int,
        chunk: int,
        next_step: int = 0,
        discount: float = 1.0,
        rewards: RewardConfig | None = None,
        cache: Storage = "ram",
        episodes: Sequence[int] | None = None,
        cameras: Sequence[str] | None = None,
        cache_folder: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        threads: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if history < 1 or chunk < 1:
            raise ValueError(f"history is {history} and chunk is {chunk}; expected at least 1")
        if next_step < 0:
            raise ValueError(f"next_step is {next_step}; expected 0 or more")
        self._gather = Gather(threads=threads, pin_memory=pin_memory)
        chosen = _chosen(dataset, episodes)
        table = dataset.episodes.iloc[chosen]
        self.dataset, self.spec, self.instructions = dataset, dataset.spec, dataset.instructions
        self.history, self.chunk, self.next_step, self.discount = (
            history,
            chunk,
            int(next_step),
            discount,
        )
        self.episodes = chosen

        self.lengths = lengths = table["length"].to_numpy(np.int64)
        ends = np.cumsum(lengths)
        source = spans(table["first_frame"].to_numpy(np.int64), lengths)
        columns = dataset.columns
        self.actions, self.states = columns.actions[source], columns.state[source]
        self.success = _from_then_on(columns.success[source], lengths)
        self.reward_config = rewards or RewardConfig()
        # of the whole dataset: its normalisation must not depend on which episodes are chosen
        every_length = dataset.episodes["length"].to_numpy(np.int64)
        rewards_all, terminals_all = shape_rewards(
            columns.rewards, columns.success, columns.terminated, every_length, self.reward_config
        )
        self.rewards, self.terminals = rewards_all[source], terminals_all[source]
        self.returns = returns_to_go(
            self.rewards, lengths, discount=discount, terminals_N=self.terminals
        )
        self._keyframe = next_keyframes(self.actions, lengths, dataset.spec)
        self.task_index = np.repeat(table["task_index"].to_numpy(np.int64), lengths)
        self._start, self._end = np.repeat(ends - lengths, lengths), np.repeat(ends, lengths)
        self._cache = FrameCache(
            dataset, cache, episodes=chosen, cameras=cameras, folder=cache_folder, progress=progress
        )
        self._row = spans(np.array([self._cache.first_row(e) for e in chosen]), lengths)

    def __len__(self) -> int:
        return len(self.actions)

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows `indices`, int (B,). T is `history + next_step`. Raises IndexError.

        May be called from several threads. The images' memory is used again once nothing refers to them.
        """
        index_B = np.asarray(indices, dtype=np.int64)
        if index_B.size and (index_B.min() < 0 or index_B.max() >= len(self)):
            raise IndexError(
                f"window indices {index_B.min()} to {index_B.max()}; there are 0 to {len(self) - 1}"
            )
        start_B1, end_B1 = _rows(self._start, index_B)[:, None], _rows(self._end, index_B)[:, None]
        step_BT = index_B[:, None] + np.arange(1 - self.history, 1 + self.next_step)
        mask_BT = (step_BT >= start_B1) & (step_BT < end_B1)
        step_BT = np.clip(step_BT, start_B1, end_B1 - 1)
        step_BTK = step_BT[..., None] + np.arange(self.chunk)
        inside_BTK = (step_BTK < end_B1[..., None]) & mask_BT[..., None]
        step_BTK = np.minimum(step_BTK, end_B1[..., None] - 1)
        row_BT = _rows(self._row, step_BT)
        task_B = _rows(self.task_index, index_B)
        return Batch(
            images={
                camera: self._gather(frames, row_BT)
                for camera, frames in self._cache.frames.items()
            },
            state=_tensor(_rows(self.states, step_BT)),
            keyframe=_tensor(_rows(self.states, _rows(self._keyframe, step_BT))),
            instruction=[self.instructions[task] for task in task_B.tolist()],
            actions=_tensor(_rows(self.actions, step_BTK)),
            action_mask=_tensor(inside_BTK),
            rewards=_tensor(np.where(mask_BT, _rows(self.rewards, step_BT), np.float32(0))),
            terminals=_tensor(_rows(self.terminals, step_BT) & mask_BT),
            returns_to_go=_tensor(np.where(mask_BT, _rows(self.returns, step_BT), np.float32(0))),
            success=_tensor(_rows(self.success, step_BT) & mask_BT),
            timesteps=_tensor(step_BT - start_B1),
            mask=_tensor(mask_BT),
            task_index=_tensor(task_B),
        )


def _from_then_on(solved_N: np.ndarray, lengths_E: np.ndarray) -> np.ndarray:
    """Whether something is True at a step or later in its episode."""
    ends = np.cumsum(lengths_E)
    solved_before = np.concatenate([[0], np.cumsum(solved_N)])
    return np.asarray(np.repeat(solved_before[ends], lengths_E) > solved_before[:-1])


def _chosen(dataset: EpisodeDataset, episodes: Sequence[int] | None) -> list[int]:
    chosen = list(range(dataset.num_episodes)) if episodes is None else [int(e) for e in episodes]
    if not chosen:
        raise DataError(
            f"{dataset.root}: no episodes are chosen; choose at least one of {dataset.num_episodes}"
        )
    if len(set(chosen)) < len(chosen):
        raise DataError(
            f"{dataset.root}: episodes are chosen twice; use weights of the sampler to repeat them"
        )
    for episode in chosen:
        if not 0 <= episode < dataset.num_episodes:
            raise DataError(
                f"{dataset.root}: there is no episode {episode}; there are 0 to {dataset.num_episodes - 1}"
            )
    return chosen


def _rows(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """array[index] of indices that are known to be inside, several times as fast."""
    return array.take(index, axis=0, mode="clip")


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
