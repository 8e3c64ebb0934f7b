"""The order in which windows in memory are trained on: a pure function of (seed, step, rank).

There are no data-loader workers and no sampler state. Resuming at a step needs nothing but its
number, and a killed run continues with the very same losses.

N: windows, B: windows of a step on this process.
"""

from __future__ import annotations

import numpy as np

# offered here too, where they used to be
from vla.data.loading.shortening import shorten_history
from vla.data.loading.window_weights import (
    episode_balanced_weights,
    solved_share_weights,
    task_balanced_weights,
)


class WindowSampler:
    """Endless batches of window indices.

    Without weights, epoch e is a permutation of all windows seeded by (seed, e), and batches cut
    the endless row of epochs into pieces: over any whole number of epochs every window comes
    equally often. With weights, each batch is drawn with replacement, seeded by (seed, step).

    Args:
        num_windows: N; indices are 0 .. N - 1.
        batch_size: of all processes together.
        seed: any non-negative integer.
        rank: this process; it takes rows [rank::world_size] of the global batch.
        world_size: number of processes; must divide `batch_size`.
        weights: (N,) non-negative, not all zero; need not sum to one.

    Raises ValueError if an argument is out of its range.
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
        check_division(batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.num_windows = num_windows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._cumulative: np.ndarray | None = None
        if weights is not None:
            self._cumulative = _cumulative(checked_weights(weights, num_windows))
        # the last epoch's permutation: several steps share it, and it is cheap to make again
        self._permutation: tuple[int, np.ndarray] | None = None

    def indices(self, step: int) -> np.ndarray:
        """This process's window indices at optimiser step `step` >= 0, int64 (B,)."""
        if step < 0:
            raise ValueError(f"step is {step}; expected 0 or more")
        if self._cumulative is not None:
            return self._weighted(step, self._cumulative)
        # places of the global batch: with another number of processes the windows are the same
        first = step * self.batch_size
        places_B = first + np.arange(self.rank, self.batch_size, self.world_size)
        epoch_B, offset_B = np.divmod(places_B, self.num_windows)
        index_B = np.empty(len(places_B), dtype=np.int64)
        # a batch may reach into the next epoch, or hold several of a small dataset
        for epoch in np.unique(epoch_B):
            own_B = epoch_B == epoch
            index_B[own_B] = self._epoch(int(epoch))[offset_B[own_B]]
        return index_B

    def _weighted(self, step: int, cumulative: np.ndarray) -> np.ndarray:
        # every process draws all rows: the batch does not depend on how many processes there are
        draws = np.random.default_rng([self.seed, step]).random(self.batch_size)
        chosen = np.searchsorted(cumulative, draws * cumulative[-1], side="right")
        return chosen[self.rank :: self.world_size].astype(np.int64)

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._permutation is None or self._permutation[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._permutation = (epoch, rng.permutation(self.num_windows))
        return self._permutation[1]


def check_division(*, batch_size: int, seed: int, rank: int, world_size: int) -> None:
    """Raises ValueError if a batch cannot be divided among processes, or the seed is negative."""
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"batch_size is {batch_size}; expected a positive multiple of world_size {world_size}"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}; expected 0 to {world_size - 1}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected a non-negative integer")


def checked_weights(weights: np.ndarray, num_windows: int) -> np.ndarray:
    """The weights as float64 (num_windows,). Raises ValueError if they allow no window."""
    weights = np.asarray(weights, np.float64)
    if weights.shape != (num_windows,):
        raise ValueError(
            f"weights have shape {weights.shape}; expected {(num_windows,)}: one per window"
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError("weights must be finite, non-negative and not all zero")
    return weights


def _cumulative(weights: np.ndarray) -> np.ndarray:
    cumulative = np.cumsum(weights)
    # draws just below the total may round up to it: windows after the last weight stay out
    last_positive = int(np.flatnonzero(weights)[-1])
    return cumulative[: last_positive + 1]


__all__ = [
    "WindowSampler",
    "check_division",
    "checked_weights",
    "episode_balanced_weights",
    "shorten_history",
    "solved_share_weights",
    "task_balanced_weights",
]
