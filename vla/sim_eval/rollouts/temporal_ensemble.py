"""Temporal ensembling of action chunks, outside of the policy (ACT: Zhao et al., 2023, section IV-A)."""

from __future__ import annotations

from collections import deque

import numpy as np


class TemporalEnsemble:
    """Averages what the chunks of the last K steps say about the present step, for one robot.

    The weight of the i-th oldest prediction is exp(-decay * i): with decay > 0 old predictions count more,
    with 0 all count the same.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._chunks: deque[np.ndarray] = deque()

    def add(self, chunk_KA: np.ndarray) -> np.ndarray:
        """Takes the chunk (K, A) predicted at this step; returns the action (A,) to execute now."""
        self._chunks.append(chunk_KA)
        while len(self._chunks) > len(chunk_KA):
            self._chunks.popleft()
        age = len(self._chunks) - 1
        now_NA = np.stack([chunk[age - i] for i, chunk in enumerate(self._chunks)])
        weights_N = np.exp(-self.decay * np.arange(len(now_NA)))
        return np.asarray(weights_N @ now_NA / weights_N.sum(), dtype=np.float32)
