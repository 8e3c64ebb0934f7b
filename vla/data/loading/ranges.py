"""Runs of consecutive integers."""

from __future__ import annotations

import numpy as np


def joined_ranges(starts_E: np.ndarray, lengths_E: np.ndarray) -> np.ndarray:
    """The integers from starts_E[e] on, lengths_E[e] of them, for every e one after the other.

    Without a loop over e: datasets have up to millions of episodes.
    """
    before_E = np.cumsum(lengths_E) - lengths_E  # integers of the runs before each
    return np.repeat(starts_E - before_E, lengths_E) + np.arange(lengths_E.sum())


__all__ = ["joined_ranges"]
