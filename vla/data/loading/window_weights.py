"""How often each window is drawn, where not all are drawn alike.

N: windows (one for each step of the episodes), E: episodes, Q: tasks.
"""

from __future__ import annotations

import numpy as np

from vla.data.loading.protocols import LabelledEpisodes


def task_balanced_weights(windows: LabelledEpisodes, temperature: float = 0.0) -> np.ndarray:
    """Weights (N,) that draw task k in proportion to (its windows) ** temperature; they sum to one.

    0 gives every task the same share, 1 leaves the shares of the data.
    """
    _, task_N, counts_Q = np.unique(windows.task_index, return_inverse=True, return_counts=True)
    shares_Q = counts_Q.astype(np.float64) ** temperature
    # of a task's share each of its windows has the same part
    weights_Q = shares_Q / shares_Q.sum() / counts_Q
    return np.asarray(weights_Q[task_N].reshape(len(windows.task_index)))


def episode_balanced_weights(
    windows: LabelledEpisodes, task_weights: np.ndarray | None = None
) -> np.ndarray:
    """Weights (N,) that draw every episode equally often, however long it is; they sum to one.

    Where behaviour is of mixed quality, what fails lasts longest, and would fill most of the
    batches.

    Args:
        task_weights: what `task_balanced_weights` gave: the shares of the tasks are kept, and
            inside a task its episodes count the same.
    """
    # On the tabletop's mixed data a policy conditioned on success solved 7 of 100 episodes; with
    # this, and without keyframes of failures, 37 (in 2400 steps of 48 windows, not 2000 of 40).
    weights_N = np.repeat(1.0 / windows.lengths, windows.lengths)
    if task_weights is not None:
        wanted_Q = np.bincount(windows.task_index, weights=task_weights)
        found_Q = np.bincount(windows.task_index, weights=weights_N)
        # a task of the dataset without any of these episodes has 0 of 0
        factor_Q = wanted_Q / found_Q.clip(1e-300)
        weights_N *= factor_Q[windows.task_index]
    return np.asarray(weights_N / weights_N.sum())


def solved_share_weights(
    windows: LabelledEpisodes,
    share: float,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Weights (N,) that draw solved episodes `share` of the time in every task.

    They sum to one.

    A task whose episodes are all solved, or none, keeps what it has, as does each task's part of
    the whole.

    Args:
        share: in (0, 1).
        weights: (N,), relative weights so far; by default every window's is the same.
    """
    if weights is None:
        weights_N = np.full(len(windows.task_index), 1.0)
    else:
        weights_N = np.array(weights, dtype=np.float64)  # a copy: it is changed below
    starts_E = np.cumsum(windows.lengths) - windows.lengths
    # `success` of a first step is that of the whole episode
    solved_N = np.repeat(windows.success[starts_E], windows.lengths)
    total_Q = np.bincount(windows.task_index, weights=weights_N)
    solved_Q = np.bincount(windows.task_index, weights=weights_N * solved_N, minlength=len(total_Q))
    mixed_Q = (solved_Q > 0) & (solved_Q < total_Q)
    # tasks that are not mixed divide by zero here; `where` leaves their results out
    with np.errstate(divide="ignore", invalid="ignore"):
        raised_Q = share * total_Q / solved_Q
        lowered_Q = (1 - share) * total_Q / (total_Q - solved_Q)
    factors_2Q = np.where(mixed_Q, np.stack([lowered_Q, raised_Q]), 1.0)
    weights_N *= factors_2Q[solved_N.astype(np.int64), windows.task_index]
    return np.asarray(weights_N / weights_N.sum())


__all__ = ["episode_balanced_weights", "solved_share_weights", "task_balanced_weights"]
