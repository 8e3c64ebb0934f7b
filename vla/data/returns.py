"""Returns to go: pure functions of rewards and of where episodes begin and how they end.

N: frames of all episodes, side by side; E: episodes.
"""

from __future__ import annotations

import numpy as np


def returns_to_go(
    rewards_N: np.ndarray,
    lengths_E: np.ndarray,
    *,
    discount: float = 1.0,
    final_values_E: np.ndarray | None = None,
    terminals_N: np.ndarray | None = None,
) -> np.ndarray:
    """Monte-Carlo returns: G_t = r_t + discount * G_{t+1} within each episode (Sutton and Barto,
    eq. 3.9).

    Args:
        rewards_N: rewards, float (N,).
        lengths_E: steps of each episode, int (E,), summing to N, each at least 1.
        discount: in [0, 1].
        final_values_E: value of what follows each episode's last step, float (E,). It belongs at
            truncations, where the task went on unseen; true ends have none. None stands for zero
            everywhere: the plain sum of what was seen, which at truncations is not the value of the
            task that goes on.
        terminals_N: steps after which nothing counts, bool (N,), wherever they lie in an episode:
            G_t = r_t there. What was recorded after one has returns of its own.

    Returns:
        float32 (N,).

    Raises:
        ValueError: the discount is outside [0, 1], or the lengths do not fit.
    """
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount is {discount}; expected a number in [0, 1]")
    lengths = np.asarray(lengths_E, dtype=np.int64)
    if lengths.sum() != len(rewards_N) or (lengths < 1).any():
        raise ValueError(
            f"lengths sum to {lengths.sum()} for {len(rewards_N)} rewards; each must be at least 1"
        )
    goes_on = np.ones(len(rewards_N))
    if terminals_N is not None:
        goes_on = 1.0 - np.asarray(terminals_N, dtype=np.float64)
    starts = np.cumsum(lengths) - lengths
    result = np.zeros(len(rewards_N), dtype=np.float64)
    following = np.zeros(len(lengths))
    if final_values_E is not None:
        following = np.array(final_values_E, dtype=np.float64)  # a copy: it is written to below
    # Backwards through time, all episodes at once: from the longest first, those still running are
    # a prefix.
    order = np.argsort(-lengths, kind="stable")
    steps_back = np.arange(1, lengths.max(initial=0) + 1)
    # how many episodes have at least that many steps; searchsorted wants ascending, hence the signs
    running = np.searchsorted(-lengths[order], -steps_back, side="right")
    for back, count in enumerate(running, start=1):
        active = order[:count]
        t = starts[active] + lengths[active] - back
        following[active] = rewards_N[t] + discount * goes_on[t] * following[active]
        result[t] = following[active]
    return result.astype(np.float32)
