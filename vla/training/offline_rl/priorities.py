"""Windows drawn by how wrong their values were (Schaul et al., 2016).

N windows, B windows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import Config
from vla.data import Windows
from vla.types import Batch

IMPORTANCE = "importance"
"""Column by which the loss of a window is weighted."""
_LEAST = 1e-3  # error of a window that is fully known: it is drawn now and then all the same
_WINDOWS_AT_ONCE = 512


class PriorityConfig(Config):
    """Draws windows in proportion to |error|^exponent, and weights them by importance.

    Errors are those of the policy and the values that a round begins with, of all windows: one
    forward pass over each, which is little beside the updates of a round that go over all of them
    several times, and much beside few. Within a round they stay as they were.

    Source: Schaul, Quan, Antonoglou and Silver, 2016, "Prioritized experience replay", eq. 1 and
    section 3.4.
    """

    exponent: float = Field(default=0.5, gt=0, le=1)
    """How much errors count; towards 0 all windows are drawn alike. alpha of the paper."""
    correction: float = Field(default=0.4, ge=0, le=1)
    """How far the weights make up in the first round for what is drawn more often. beta of the
    paper, which ends at 1."""
    correction_rounds: int = Field(default=20, ge=1)
    """Rounds over which it grows to 1."""

    def correction_in(self, round_number: int) -> float:
        """Of round `round_number`, which counts from 1."""
        share = min(1.0, (round_number - 1) / self.correction_rounds)
        return self.correction + share * (1 - self.correction)


def shares_of(errors: Float[np.ndarray, " N"], exponent: float) -> Float[np.ndarray, " N"]:
    """How often each window is drawn, in proportion; positive."""
    return (np.abs(errors).astype(np.float64) + _LEAST) ** exponent


def importance_of(shares: Float[np.ndarray, " N"], correction: float) -> Float[np.ndarray, " N"]:
    """Weights that make up for unequal draws, 1 at most: (N p)^-correction over the greatest."""
    weights = (len(shares) * shares / shares.sum()) ** -correction
    return (weights / weights.max()).astype(np.float32)


def errors_of(
    windows: Windows,
    device: torch.device,
    error: Callable[[Batch], Float[Tensor, " B"]],
) -> Float[np.ndarray, " N"]:
    """The error of every window, in parts.

    Args:
        windows: to go through.
        device: where batches are moved to.
        error: of the windows of a batch.
    """
    found = []
    for rows in _parts(len(windows)):
        found.append(error(windows.batch(rows).to(device)).cpu().numpy())
    return np.concatenate(found)


def _parts(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, _WINDOWS_AT_ONCE):
        yield np.arange(start, min(start + _WINDOWS_AT_ONCE, count))


__all__ = ["IMPORTANCE", "PriorityConfig", "errors_of", "importance_of", "shares_of"]
