"""Rows of large uint8 arrays gathered into tensors: one copy of each byte, in reused memory.

R: rows of an array, B: windows in a batch, T: steps of a window.
"""

from __future__ import annotations

import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch

_LEAST_BYTES = 2**20  # per thread: below it, handing work over costs more than it saves
_FREE_BUFFERS = 16  # more than batches are ever held at once; older ones go back to the system


class RowGatherer:
    """Gathers rows by index.

    The memory of a result is used again once the last tensor that looks at it is gone: the first
    touch of fresh memory costs as much as the copy itself. So at any time there are as many buffers
    as batches are held.

    Args:
        threads: that copy at once, this one included.
        pin_memory: whether results are in pinned memory, from which copies to a GPU need not be
            waited for. Needs CUDA, whose own allocator then uses memory again, after copies from it
            have ended.
    """

    def __init__(self, *, threads: int = 1, pin_memory: bool = False) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; expected at least 1")
        self.threads = threads
        self.pin_memory = pin_memory
        self._free: deque[np.ndarray] = deque(maxlen=_FREE_BUFFERS)
        self._pool: ThreadPoolExecutor | None = None
        if threads > 1:
            self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="gather")

    def __call__(self, values: np.ndarray, row_BT: np.ndarray) -> torch.Tensor:
        """uint8 (R, ...) and valid rows, int64 (B, T) -> uint8 (B, T, ...)."""
        rows = row_BT.ravel()
        flat = values.reshape(len(values), -1)  # a view, also of a memory-mapped file
        row_bytes = flat.shape[1]
        result = self._empty(len(rows) * row_bytes)
        self._copy(flat, rows, result.numpy().reshape(len(rows), row_bytes))
        return result.view(*row_BT.shape, *values.shape[1:])

    def _copy(self, flat: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
        parts = min(self.threads, 1 + out.size // _LEAST_BYTES)
        bounds = [len(rows) * part // parts for part in range(parts + 1)]
        # "clip" writes straight into `out`, where "raise" would copy once more; the rows are valid.
        pending: list[Future[Any]] = []
        if self._pool is not None:
            for lower, upper in pairwise(bounds[1:]):
                piece = out[lower:upper]
                pending.append(
                    self._pool.submit(
                        np.take, flat, rows[lower:upper], axis=0, out=piece, mode="clip"
                    )
                )
        # the first part is this thread's own, copied while the others work
        np.take(flat, rows[: bounds[1]], axis=0, out=out[: bounds[1]], mode="clip")
        for copied in pending:
            copied.result()

    def _empty(self, size: int) -> torch.Tensor:
        """uint8 (size,), its content undefined."""
        if self.pin_memory:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        owner = self._unused(size)
        # All tensors of the result keep `lent` alive, and nothing else does: when it goes, so has
        # the last of them.
        lent = owner[:size]
        weakref.finalize(lent, self._free.append, owner).atexit = False
        return torch.from_numpy(lent)

    def _unused(self, size: int) -> np.ndarray:
        """A buffer of at least `size` bytes; for batches of about one size always the same ones."""
        for _ in range(len(self._free)):
            try:
                owner = self._free.popleft()
            except IndexError:  # another thread took it
                break
            # not twice too large: a last, small batch must not tie up a full one's buffer
            if size <= owner.size <= 2 * size:
                return owner
            self._free.append(owner)
        return np.empty(size, np.uint8)


__all__ = ["RowGatherer"]
