"""Values that leave what rewards and discount allow: how far they may go, and the error where they have gone further."""

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
    ends = bool(windows.terminals[np.cumsum(windows.lengths) - 1].all())
    if discount < 1:  # what was cut off goes on unseen, longer than any episode
        horizon = min(horizon, 1 / (1 - discount)) if ends else 1 / (1 - discount)
    return _TOO_FAR * float(abs(windows.rewards).max()) * horizon


def watch_size(kept: Tensor, mean_q: Tensor, steps: int) -> None:
    """Moves the running mean of |Q| by the mean of one more batch, after so many steps."""
    rate = max(_RATE, 1 / (steps + 1))
    kept += rate * (mean_q.detach().abs() - kept)


def check_size(
    size: Tensor, bound: float | None, *, steps: int, discount: float, remedy: str
) -> None:
    """Raises ObjectiveError where the running mean of |Q| is beyond the bound; without a bound nothing is asked."""
    if bound is not None and float(size) > bound:
        raise ObjectiveError(
            f"objective: Q diverges: its mean size is {float(size):.3g} at step {steps}, rewards of this data and discount "
            f"{discount:g} allow {bound / _TOO_FAR:.3g}; {remedy}"
        )


__all__ = ["check_size", "q_bound", "watch_size"]
