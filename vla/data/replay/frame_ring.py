"""Decoded frames in a ring: new ones take the places of the oldest.

R: places of the ring, H and W: image height and width, n: frames.
"""

from __future__ import annotations

import numpy as np

_FIRST_ROWS = 1024


class FrameRing:
    """One camera's frames.

    The array grows by doubling up to `capacity` places, so that adding costs what is added; from
    then on the oldest places are written over.

    Args:
        size: H, W.
        capacity: R at most; None for no limit.
    """

    def __init__(self, size: tuple[int, int], capacity: int | None = None) -> None:
        self._capacity = capacity
        first = _FIRST_ROWS if capacity is None else min(_FIRST_ROWS, capacity)
        self.frames = np.empty((first, *size, 3), np.uint8)
        self._next = 0

    def add(self, frames: np.ndarray) -> np.ndarray:
        """Takes frames, uint8 (n, H, W, 3), and returns their places, int64 (n,).

        Raises ValueError if the ring has fewer places.
        """
        n = len(frames)
        if self._capacity is not None and n > self._capacity:
            raise ValueError(f"{n} frames for a ring of {self._capacity}")
        self._grow(self._next + n)
        rows_n = (self._next + np.arange(n)) % len(self.frames)
        self.frames[rows_n] = frames
        self._next += n
        return rows_n

    def _grow(self, wanted: int) -> None:
        limit = wanted if self._capacity is None else min(wanted, self._capacity)
        if limit <= len(self.frames):
            return
        doubled = 2 * len(self.frames)
        rows = max(limit, doubled if self._capacity is None else min(doubled, self._capacity))
        grown = np.empty((rows, *self.frames.shape[1:]), np.uint8)
        # a ring that has not reached its capacity has not begun to write over anything
        grown[: self._next] = self.frames[: self._next]
        self.frames = grown


__all__ = ["FrameRing"]
