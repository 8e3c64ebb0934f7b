"""Temporal ensembling of action chunks, outside of the policy (ACT: Zhao et al. 2023, sec. IV-A).

N chunks that speak of the present step, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from collections import deque

import numpy as np


class TemporalEnsemble:
    """Averages what the chunks of the last K steps say about the present step, for one robot.

    The weight of the i-th oldest prediction is exp(-decay * i): with decay > 0 old predictions
    count more, with 0 all count the same.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._chunks: deque[np.ndarray] = deque()

    def add(self, chunk_KA: np.ndarray) -> np.ndarray:
        """Takes the chunk (K, A) predicted at this step; returns the action (A,) to execute now."""
        self._chunks.append(chunk_KA)
        # a chunk of K actions says nothing about the step K after it
        while len(self._chunks) > len(chunk_KA):
            self._chunks.popleft()
        N = len(self._chunks)
        # The oldest chunk comes first; the one that was predicted `age` steps ago says chunk[age].
        now = []
        for i, chunk in enumerate(self._chunks):
            age = N - 1 - i
            now.append(chunk[age])
        now_NA = np.stack(now)
        weights_N = np.exp(-self.decay * np.arange(N))
        mean_A = weights_N @ now_NA / weights_N.sum()
        return np.asarray(mean_A, dtype=np.float32)
