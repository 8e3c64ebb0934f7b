"""When values leave what rewards and discount allow: the bound, and the error beyond it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from vla.data import Windows
from vla.training.objective import ObjectiveError

_RATE = 0.02  # of the running mean of |Q| that is watched
_TOO_FAR = 10.0  # times the greatest return that the data's rewards allow


def q_bound(windows: Windows, discount: float) -> float:
    """The size of Q, in units of the rewards, beyond which it diverges on these data."""
    horizon = float(windows.lengths.max())
    last_E = np.cumsum(windows.lengths) - 1
    all_end = bool(windows.terminals[last_E].all())
    if discount < 1:
        geometric = 1 / (1 - discount)
        # a truncated episode would have gone on unseen, longer than any episode of the data
        horizon = min(horizon, geometric) if all_end else geometric
    return _TOO_FAR * float(abs(windows.rewards).max()) * horizon


def watch_size(size: Tensor, mean_q: Tensor, steps: int) -> None:
    """Moves `size`, the running mean of |Q|, by the mean of one more batch, after so many steps."""
    # a plain mean of the first batches: a running mean from 0 would hide an early divergence
    rate = max(_RATE, 1 / (steps + 1))
    size += rate * (mean_q.detach().abs() - size)


def check_size(
    size: Tensor,
    bound: float | None,
    *,
    steps: int,
    discount: float,
    remedy: str,
) -> None:
    """Raises ObjectiveError if the running mean of |Q| is beyond the bound; None asks nothing."""
    # `bound` first: reading `size` makes a GPU wait
    if bound is not None and float(size) > bound:
        raise ObjectiveError(
            f"objective: Q diverges: its mean size is {float(size):.3g} at step {steps}, rewards "
            f"of this data and discount {discount:g} allow {bound / _TOO_FAR:.3g}; {remedy}"
        )


__all__ = ["check_size", "q_bound", "watch_size"]
