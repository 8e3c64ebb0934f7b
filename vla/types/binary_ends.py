"""Where a binary action dimension changes from one end of its range to the other."""

from __future__ import annotations

import numpy as np


def binary_middle(low: float, high: float) -> float:
    """From this value on a binary dimension with these ends is `high`."""
    # in float32, as actions are, so that tokens and continuous heads agree on every value
    return float(np.float32((low + high) / 2))


__all__ = ["binary_middle"]
