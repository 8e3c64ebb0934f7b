"""Limits of actions for datasets that state none."""

from __future__ import annotations

import numpy as np


def action_limits(actions_NA: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least and greatest value of each dimension of actions (N, A); of a dimension that never moves
    an interval around its value."""
    # What is not finite is refused when numbers are used, with its place: not here.
    values = np.where(np.isfinite(actions_NA), actions_NA, np.nan).astype(np.float64)
    dims = values.shape[1]
    low = np.zeros(dims)
    high = np.zeros(dims)
    # nanmin of nothing but NaN warns and gives NaN, which is no limit
    some = np.isfinite(values).any(0) if len(values) else np.zeros(dims, bool)
    low[some] = np.nanmin(values[:, some], 0)
    high[some] = np.nanmax(values[:, some], 0)
    # a Spec needs low < high
    constant = high - low < 1e-6
    low = np.where(constant, low - 1.0, low)
    high = np.where(constant, high + 1.0, high)
    return tuple(low), tuple(high)
