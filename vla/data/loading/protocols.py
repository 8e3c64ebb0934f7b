"""The two halves of loading: what windows can be gathered from, and which of them come at a step.

Another source or another order is one class of the kind: training needs no more than this.

N: frames of the source, A: action dimensions, S: state dimensions, E: episodes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from vla.types import Batch, Spec


class Trajectories(Protocol):
    """Numbers and texts of episodes side by side: what a policy of one robot is fitted to."""

    @property
    def actions(self) -> np.ndarray:
        """float32 (N, A), robot units."""

    @property
    def states(self) -> np.ndarray:
        """float32 (M, S), robot units; M may differ from N where datasets count by their shares."""

    @property
    def lengths(self) -> np.ndarray:
        """int64 (E,), steps of each episode; they sum to N."""

    @property
    def instructions(self) -> list[str]:
        """The distinct texts."""


class WindowSource(Trajectories, Protocol):
    """Windows of one robot that batches are gathered from, by their number from 0 to len - 1.

    `Windows` (decoded frames), `StreamedWindows` (frames decoded as they are needed) and
    `ReplayMixture` (several datasets in a row) are sources.
    """

    @property
    def spec(self) -> Spec:
        """The robot that the batches are for."""

    @property
    def history(self) -> int:
        """Steps of a window up to the current one."""

    @property
    def next_step(self) -> int:
        """Further steps after the current one, for temporal-difference targets."""

    def __len__(self) -> int:
        """How many windows there are."""

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows `indices`, int (B,), in that order. Raises IndexError."""


class IndexOrder(Protocol):
    """Endless batches of window numbers: a pure function of (seed, step, rank).

    No state is kept, so a resumed run needs nothing but its step. `WindowSampler`, `StreamOrder`
    and `InterleavedSampler` are orders.
    """

    @property
    def num_windows(self) -> int:
        """Numbers are 0 .. num_windows - 1."""

    @property
    def batch_size(self) -> int:
        """Windows of a step, of all processes together."""

    @property
    def seed(self) -> int: ...

    @property
    def rank(self) -> int:
        """This process."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    def indices(self, step: int) -> np.ndarray:
        """This process's numbers at step `step` >= 0, int64 (batch_size / world_size,)."""


class LabelledEpisodes(Protocol):
    """What weights of windows are computed from; `Windows` are such."""

    @property
    def lengths(self) -> np.ndarray:
        """int64 (E,), steps of each episode; they sum to N."""

    @property
    def task_index(self) -> np.ndarray:
        """int64 (N,), the task of each step."""

    @property
    def success(self) -> np.ndarray:
        """bool (N,), whether the episode is solved at that step or later."""


__all__ = ["IndexOrder", "LabelledEpisodes", "Trajectories", "WindowSource"]
