"""Contiguous windows of trajectories as batches, gathered from arrays without a loop over samples.

N: frames of the chosen episodes (and windows: one for each), E: chosen episodes, B: windows in a
batch, T: steps of a window, K: actions per chunk, A: action dimensions, S: state dimensions, H and
W: image height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from vla.data.errors import DataError
from vla.data.extras import ACTION_CHUNK, VALID_ACTIONS
from vla.data.loading.frame_cache import FrameCache, Storage
from vla.data.loading.keyframes import next_keyframes
from vla.data.loading.protocols import IndexOrder
from vla.data.loading.ranges import joined_ranges
from vla.data.loading.row_copy import RowGatherer
from vla.data.loading.sampler import WindowSampler
from vla.data.reader import EpisodeDataset
from vla.data.returns import returns_to_go
from vla.data.rewards import RewardConfig, shape_rewards
from vla.types import Batch


class Windows:
    """One window for each step t of the chosen episodes, with t as its last (current) step.

    A window has `history` steps, left-padded at the episode's start, and with `next_step` = n > 0
    the n steps after t: `batch.steps(0, -n)` and `batch.steps(n, None)` are then the current window
    and the one n steps later. Steps that the episode does not have are masked, whether it
    terminated or was truncated.

    A window has one instruction, that of its current step. Where the instruction changes within the
    episode, history and next steps end at the change, as at the episode's ends: control starts a
    new history with a new instruction, and other steps would be imitated under words that they did
    not follow. Chunks go on beyond it, as in LeRobot: to the hand-over belongs what comes next.

    With the extra column `valid_actions`, the first so many actions of a step's chunk alone count:
    where labels belong to the states that were visited, those of later steps do not follow them.
    With `action_chunk` a step's chunk is what stands there, and not the actions of later steps.

    Where `mask` is False: images and state repeat the nearest real step, rewards and returns are 0,
    terminals and action masks are False. Chunks that run past the end repeat the episode's last
    action.

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
        extras: which extra columns of the dataset the batches hold.
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
        extras: name -> (N,) or (N, D), the extra columns that were asked for.
        columns: name -> (N,) or (N, D), what was computed of the steps since: batches hold it too.
        valid_actions: int64 (N,), how many actions of each step's chunk may be learned; None for
            all.
        action_chunks: float32 (N, K, A) where the dataset has `action_chunk`, else None.
        success: bool (N,), whether the episode is solved at that step or later.
        task_index: int64 (N,), row of `instructions`; steps of one episode may differ.
        instructions: all of the dataset's.
        lengths: int64 (E,), steps of the chosen episodes; all arrays above hold them side by side.

    Raises:
        DataError: no episode is chosen or an index is unknown, a number is NaN, an image is
            damaged, or there is no such extra column.
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
        extras: Sequence[str] = (),
        cache_folder: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        threads: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if history < 1 or chunk < 1:
            raise ValueError(f"history is {history} and chunk is {chunk}; expected at least 1")
        if next_step < 0:
            raise ValueError(f"next_step is {next_step}; expected 0 or more")
        self._gather = RowGatherer(threads=threads, pin_memory=pin_memory)
        self.dataset = dataset
        self.spec = dataset.spec
        self.instructions = dataset.instructions
        self.history = history
        self.chunk = chunk
        self.next_step = int(next_step)
        self.discount = discount
        self.reward_config = rewards or RewardConfig()
        self.episodes = _chosen(dataset, episodes)
        self._extra_names = _chosen_extras(dataset, extras)
        self.columns: dict[str, np.ndarray] = {}
        self._read_numbers()
        self._cache = FrameCache(
            dataset,
            cache,
            episodes=self.episodes,
            cameras=cameras,
            folder=cache_folder,
            progress=progress,
        )
        # a cache on disk holds all episodes, so rows of frames are not those of the arrays
        first_row_E = np.array([self._cache.first_row(episode) for episode in self.episodes])
        self._row = joined_ranges(first_row_E, self.lengths)

    def _read_numbers(self) -> None:
        """All columns but images, for the chosen episodes side by side."""
        table = self.dataset.episodes.iloc[self.episodes]
        self.lengths = lengths = table["length"].to_numpy(np.int64)
        ends_E = np.cumsum(lengths)
        frame_N = joined_ranges(table["first_frame"].to_numpy(np.int64), lengths)
        columns = self.dataset.columns
        self.actions = columns.actions[frame_N]
        self.states = columns.state[frame_N]
        self.extras = {name: columns.extras[name][frame_N] for name in self._extra_names}
        valid_actions = columns.extras.get(VALID_ACTIONS)
        self.valid_actions = None if valid_actions is None else valid_actions[frame_N]
        self.action_chunks = self._own_chunks(columns.extras.get(ACTION_CHUNK), frame_N)
        self.success = _from_then_on(columns.success[frame_N], lengths)
        # Rewards are shaped over the whole dataset: their normalisation must not depend on which
        # episodes are chosen, and a held-out episode is scaled as a training one.
        rewards_all, terminals_all = shape_rewards(
            columns.rewards,
            columns.success,
            columns.terminated,
            self.dataset.episodes["length"].to_numpy(np.int64),
            self.reward_config,
        )
        self.rewards = rewards_all[frame_N]
        self.terminals = terminals_all[frame_N]
        self.returns = returns_to_go(
            self.rewards, lengths, discount=self.discount, terminals_N=self.terminals
        )
        self._keyframe = next_keyframes(self.actions, lengths, self.spec)
        self.task_index = self.dataset.task_of_frames[frame_N]
        # first frame of each frame's episode, and its end: what a chunk is clipped to
        self._start = np.repeat(ends_E - lengths, lengths)
        self._end = np.repeat(ends_E, lengths)
        # the same of the steps around it with its instruction: what a window is clipped to
        changes = np.flatnonzero(np.diff(self.task_index)) + 1
        edges = np.union1d(changes, np.concatenate([[0], ends_E]))
        self._first = np.repeat(edges[:-1], np.diff(edges))
        self._stop = np.repeat(edges[1:], np.diff(edges))

    def _own_chunks(self, stored: np.ndarray | None, frame_N: np.ndarray) -> np.ndarray | None:
        """The first K actions of the stored chunks, (N, K, A). Raises DataError for short ones."""
        if stored is None:
            return None
        A = self.spec.action_dim
        chunks = stored[frame_N].reshape(len(frame_N), -1)
        stored_length = chunks.shape[1] // A
        if chunks.shape[1] % A or stored_length < self.chunk:
            raise DataError(
                f"{ACTION_CHUNK}: holds {stored_length} actions of {A} dimensions, and chunks of "
                f"{self.chunk} are wanted; set policy.chunk={max(1, stored_length)}, or record "
                "longer ones"
            )
        return chunks.reshape(len(frame_N), stored_length, A)[:, : self.chunk]

    def __len__(self) -> int:
        return len(self.actions)

    def order(
        self,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: np.ndarray | None = None,
    ) -> IndexOrder:
        """Endless batches of indices of these windows; arguments as of `WindowSampler`."""
        return WindowSampler(
            len(self),
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            weights=weights,
        )

    def single_order(
        self,
        *,
        seed: int,
        rank: int,
        world_size: int,
        weights: np.ndarray | None,
    ) -> IndexOrder:
        """Endless single windows: this dataset's part of an `InterleavedSampler`.

        Frames are in memory, so all processes draw from one row, and each takes its own out of it.
        """
        return WindowSampler(len(self), batch_size=1, seed=seed, weights=weights)

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows `indices`, int (B,). T is `history + next_step`. Raises IndexError.

        May be called from several threads. The images' memory is used again once nothing refers to
        them.
        """
        index_B = checked_indices(indices, len(self))
        start_B1 = _rows(self._start, index_B)[:, None]
        end_B1 = _rows(self._end, index_B)[:, None]
        first_B1 = _rows(self._first, index_B)[:, None]
        stop_B1 = _rows(self._stop, index_B)[:, None]
        step_BT = index_B[:, None] + np.arange(1 - self.history, 1 + self.next_step)
        mask_BT = (step_BT >= first_B1) & (step_BT < stop_B1)
        # steps outside the episode repeat its nearest one, or the window would show its neighbour
        step_BT = np.clip(step_BT, first_B1, stop_B1 - 1)
        step_BTK = step_BT[..., None] + np.arange(self.chunk)
        inside_BTK = (step_BTK < end_B1[..., None]) & mask_BT[..., None]
        if self.action_chunks is not None:
            # they are played ahead, beyond the episode's end as well
            inside_BTK = np.repeat(mask_BT[..., None], self.chunk, axis=2)
        if self.valid_actions is not None:
            valid_BT1 = _rows(self.valid_actions, step_BT)[..., None]
            inside_BTK &= np.arange(self.chunk) < valid_BT1
        step_BTK = np.minimum(step_BTK, end_B1[..., None] - 1)
        row_BT = _rows(self._row, step_BT)
        if self.action_chunks is None:
            actions_BTKA = _rows(self.actions, step_BTK)
        else:
            actions_BTKA = _rows(self.action_chunks, step_BT)
        task_B = _rows(self.task_index, index_B)
        zero = np.float32(0)
        images = {
            camera: self._gather(frames, row_BT) for camera, frames in self._cache.frames.items()
        }
        return Batch(
            images=images,
            state=_tensor(_rows(self.states, step_BT)),
            keyframe=_tensor(_rows(self.states, _rows(self._keyframe, step_BT))),
            instruction=[self.instructions[task] for task in task_B.tolist()],
            actions=_tensor(actions_BTKA),
            action_mask=_tensor(inside_BTK),
            rewards=_tensor(np.where(mask_BT, _rows(self.rewards, step_BT), zero)),
            terminals=_tensor(_rows(self.terminals, step_BT) & mask_BT),
            returns_to_go=_tensor(np.where(mask_BT, _rows(self.returns, step_BT), zero)),
            success=_tensor(_rows(self.success, step_BT) & mask_BT),
            timesteps=_tensor(step_BT - start_B1),
            mask=_tensor(mask_BT),
            task_index=_tensor(task_B),
            extras={
                name: _tensor(_rows(rows, step_BT))
                for name, rows in {**self.extras, **self.columns}.items()
            },
        )


def checked_indices(indices: np.ndarray, num_windows: int) -> np.ndarray:
    """`indices` as int64 (B,). Raises IndexError if one is not in 0 .. num_windows - 1."""
    index_B = np.asarray(indices, dtype=np.int64)
    if index_B.size and (index_B.min() < 0 or index_B.max() >= num_windows):
        raise IndexError(
            f"window indices {index_B.min()} to {index_B.max()}; there are 0 to {num_windows - 1}"
        )
    return index_B


def _from_then_on(solved_N: np.ndarray, lengths_E: np.ndarray) -> np.ndarray:
    """Whether something is True at a step or later in its episode, bool (N,)."""
    ends_E = np.cumsum(lengths_E)
    solved_before = np.concatenate([[0], np.cumsum(solved_N)])  # (N + 1,)
    # more are solved by the episode's end than before the step
    return np.asarray(np.repeat(solved_before[ends_E], lengths_E) > solved_before[:-1])


def _chosen(dataset: EpisodeDataset, episodes: Sequence[int] | None) -> list[int]:
    """The indices of the episodes to use. Raises DataError if they are wrong."""
    if episodes is None:
        chosen = list(range(dataset.num_episodes))
    else:
        chosen = [int(episode) for episode in episodes]
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
                f"{dataset.root}: there is no episode {episode}; "
                f"there are 0 to {dataset.num_episodes - 1}"
            )
    return chosen


def _chosen_extras(dataset: EpisodeDataset, names: Sequence[str]) -> list[str]:
    """The extra columns to use. Raises DataError if the dataset has no such column."""
    there = list(dataset.unchecked_columns.extras) if names else []
    for name in names:
        if name not in there:
            raise DataError(
                f"{dataset.root}: there is no extra column {name!r}; it has: "
                f"{', '.join(there) or 'none'}"
            )
    return list(names)


def _rows(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """array[index] of indices that are known to be inside, several times as fast."""
    # "raise" would check each index first; `batch` has clipped them to their episodes
    return array.take(index, axis=0, mode="clip")


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


__all__ = ["Windows", "checked_indices"]
