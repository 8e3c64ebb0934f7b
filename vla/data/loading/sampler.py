"""The order in which windows are trained on: a pure function of (seed, step, rank)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from vla.data.loading.windows import Windows
from vla.types import Batch


class WindowSampler:
    """Endless batches of window indices.

    Without weights, epoch e is a permutation of all windows seeded by (seed, e), and batches cut the endless
    row of epochs into pieces: over any whole number of epochs every window comes equally often. With weights,
    each batch is drawn with replacement, seeded by (seed, step).

    Args:
        num_windows: indices are 0 .. num_windows - 1.
        batch_size: of all processes together.
        seed: any non-negative integer.
        rank: this process; it takes rows [rank::world_size] of the global batch.
        world_size: number of processes; must divide `batch_size`.
        weights: (num_windows,) non-negative, not all zero; need not sum to one.
    """

    def __init__(
        self,
        num_windows: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: np.ndarray | None = None,
    ) -> None:
        if num_windows < 1:
            raise ValueError(
                f"num_windows is {num_windows}; expected at least one window: choose more episodes"
            )
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size is {batch_size}; expected a positive multiple of world_size {world_size}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; expected 0 to {world_size - 1}")
        if seed < 0:
            raise ValueError(f"seed is {seed}; expected a non-negative integer")
        self.num_windows, self.batch_size, self.seed = num_windows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._cumulative = (
            None if weights is None else _cumulative(np.asarray(weights, np.float64), num_windows)
        )
        self._permutation: tuple[int, np.ndarray] | None = None

    def indices(self, step: int) -> np.ndarray:
        """This process's window indices at optimiser step `step` >= 0, int64 (batch_size / world_size,)."""
        if step < 0:
            raise ValueError(f"step is {step}; expected 0 or more")
        if self._cumulative is not None:
            draws = np.random.default_rng([self.seed, step]).random(self.batch_size)
            chosen = np.searchsorted(self._cumulative, draws * self._cumulative[-1], side="right")
            return chosen[self.rank :: self.world_size].astype(np.int64)
        places = step * self.batch_size + np.arange(self.rank, self.batch_size, self.world_size)
        epochs, offsets = np.divmod(places, self.num_windows)
        result = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            result[rows] = self._epoch(int(epoch))[offsets[rows]]
        return result

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._permutation is None or self._permutation[0] != epoch:
            self._permutation = (
                epoch,
                np.random.default_rng([self.seed, epoch]).permutation(self.num_windows),
            )
        return self._permutation[1]


def _cumulative(weights: np.ndarray, num_windows: int) -> np.ndarray:
    if weights.shape != (num_windows,):
        raise ValueError(
            f"weights have shape {weights.shape}; expected {(num_windows,)}: one per window"
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError("weights must be finite, non-negative and not all zero")
    cumulative = np.cumsum(weights)
    # Draws just below the total may round up to it: the windows after the last positive weight stay out.
    return cumulative[: int(np.flatnonzero(weights)[-1]) + 1]


def task_balanced_weights(windows: Windows, temperature: float = 0.0) -> np.ndarray:
    """Weights (len(windows),) that draw task k in proportion to (its windows) ** temperature; they sum to one.

    0 gives every task the same share, 1 leaves the shares of the data.
    """
    _, inverse, counts = np.unique(windows.task_index, return_inverse=True, return_counts=True)
    shares = counts.astype(np.float64) ** temperature
    return np.asarray((shares / shares.sum() / counts)[inverse].reshape(len(windows)))


def episode_balanced_weights(
    windows: Windows, task_weights: np.ndarray | None = None
) -> np.ndarray:
    """Weights (len(windows),) that draw every episode equally often, however long it is; they sum to one.

    Where behaviour is of mixed quality, what fails lasts longest, and would fill most of the batches.

    Args:
        task_weights: what `task_balanced_weights` gave: the shares of the tasks are kept, and inside a task its
            episodes count the same.
    """
    weights = np.repeat(1.0 / windows.lengths, windows.lengths)
    if task_weights is not None:
        of_task = np.bincount(windows.task_index, weights=task_weights)
        weights *= (of_task / np.bincount(windows.task_index, weights=weights).clip(1e-300))[
            windows.task_index
        ]
    return np.asarray(weights / weights.sum())


def solved_share_weights(
    windows: Windows, share: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """Weights (len(windows),) under which solved episodes are drawn `share` of the time in every task; they sum to one.

    A task whose episodes are all solved, or none, keeps what it has, as does each task's part of the whole.

    Args:
        share: in (0, 1).
        weights: relative weights so far; by default every window's is the same.
    """
    weights = np.full(len(windows), 1.0) if weights is None else np.array(weights, dtype=np.float64)
    starts = np.cumsum(windows.lengths) - windows.lengths
    solved_N = np.repeat(windows.success[starts], windows.lengths)
    total = np.bincount(windows.task_index, weights=weights)
    solved = np.bincount(windows.task_index, weights=weights * solved_N, minlength=len(total))
    mixed = (solved > 0) & (solved < total)
    with np.errstate(divide="ignore", invalid="ignore"):
        raised, lowered = share * total / solved, (1 - share) * total / (total - solved)
    factors = np.where(mixed, np.stack([lowered, raised]), 1.0)
    weights *= factors[solved_N.astype(np.int64), windows.task_index]
    return np.asarray(weights / weights.sum())


def shorten_history(batch: Batch, rng: np.random.Generator, *, next_step: int = 0) -> Batch:
    """The same windows with a random number of their oldest steps hidden, so that a policy learns from any history.

    Of T steps every window keeps the last 1 .. T, drawn evenly, and the steps after them where it holds some; hidden steps
    are as padded ones.

    Args:
        next_step: how many steps after the current one the windows hold (see `Windows`).
    """
    B, steps = batch.mask.shape
    first_B = torch.from_numpy(rng.integers(0, steps - next_step, size=B))
    seen_BT = torch.arange(steps) >= first_B[:, None]
    return dataclasses.replace(
        batch,
        mask=batch.mask & seen_BT,
        action_mask=batch.action_mask & seen_BT[..., None],
        rewards=batch.rewards * seen_BT,
        returns_to_go=batch.returns_to_go * seen_BT,
        terminals=batch.terminals & seen_BT,
        success=batch.success & seen_BT,
    )
