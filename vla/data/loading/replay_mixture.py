"""Windows of further datasets beside a robot's own, as one row of windows.

Replayed is for example what a policy was pretrained on.

B windows, T steps, N windows of a dataset, S state dimensions of the policy's robot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla.data.loading.windows import Windows, checked_indices
from vla.types import Batch, Spec, resized


class AdaptedWindows:
    """Windows of one robot's data as another robot would have seen them.

    Args:
        windows: of a robot with the same actions, with the cameras that `cameras` names.
        spec: the robot that the batches are for.
        cameras: camera of `spec` -> camera of the data. Images are resized if their size is
            another.
        fill: (S,), what stands where the data has no state dimension of that name.
        first_task: added to `task_index`.
    """

    def __init__(
        self,
        windows: Windows,
        spec: Spec,
        *,
        cameras: Mapping[str, str],
        fill: np.ndarray,
        first_task: int = 0,
    ) -> None:
        self.windows = windows
        self.cameras = dict(cameras)
        self.first_task = first_task
        self._sizes = {camera: spec.cameras[camera] for camera in cameras}
        # the mean of the new data, which normalisation maps to 0: "nothing known of this dimension"
        self._fill = torch.as_tensor(fill, dtype=torch.float32)
        source_names = windows.spec.state_names
        # (column of the policy's state, column of the data's): matched by name, not by place
        self._columns = [
            (column, source_names.index(name))
            for column, name in enumerate(spec.state_names)
            if name in source_names
        ]

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def states(self) -> np.ndarray:
        """float32 (N, S), in the columns of the policy's robot."""
        states_1NS = torch.from_numpy(self.windows.states)[None]
        return self._state(states_1NS)[0].numpy()

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows `indices`, int (B,). Raises IndexError."""
        batch = self.windows.batch(indices)
        images = {
            camera: resized(batch.images[source], self._sizes[camera])
            for camera, source in self.cameras.items()
        }
        return dataclasses.replace(
            batch,
            images=images,
            state=self._state(batch.state),
            keyframe=self._state(batch.keyframe),
            task_index=batch.task_index + self.first_task,
        )

    def _state(self, source_BTS: Tensor) -> Float[Tensor, "B T S"]:
        state_BTS = self._fill.expand(*source_BTS.shape[:2], -1).clone()
        for column, source_column in self._columns:
            state_BTS[..., column] = source_BTS[..., source_column]
        return state_BTS


class ReplayMixture:
    """Windows of a dataset and of further ones, side by side: a `WindowSource`.

    A mixture is no more than row numbers: window i of the second dataset has the number
    len(first) + i. Which rows come when is up to an `InterleavedSampler`.

    Args:
        first: the run's own data.
        further: what is replayed beside it.
        shares: of the further datasets in the batches; the first has the rest.

    Attributes:
        actions: of all data, (N, A).
        states: of each dataset as many as its share, evenly spread over it, (M, S): what
            normalisation is to be fitted to, as one dataset may be much larger than another.
        instructions, lengths: of all data.
    """

    def __init__(
        self,
        first: Windows,
        further: Sequence[AdaptedWindows],
        shares: Sequence[Fraction],
    ) -> None:
        self.first = first
        self.further = list(further)
        self.spec = first.spec
        self.history = first.history
        self.next_step = first.next_step
        datasets = [first, *(part.windows for part in further)]
        self.actions = np.concatenate([windows.actions for windows in datasets])
        self.lengths = np.concatenate([windows.lengths for windows in datasets])
        self.instructions = [text for windows in datasets for text in windows.instructions]
        self.states = _states_by_share(
            [first.states, *(part.states for part in further)],
            [Fraction(1) - sum(shares), *shares],
        )
        self.sizes = [len(windows) for windows in datasets]
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows `indices`, int (B,), in that order. Raises IndexError."""
        index_B = checked_indices(indices, len(self))
        # "right": the number that is one dataset's end is the next one's first window
        dataset_B = np.searchsorted(self._ends, index_B, side="right")
        parts: list[Batch] = []
        rows: list[np.ndarray] = []
        sources: list[Windows | AdaptedWindows] = [self.first, *self.further]
        for number, source in enumerate(sources):
            own_rows = np.flatnonzero(dataset_B == number)
            if len(own_rows):
                start = self._ends[number] - self.sizes[number]
                parts.append(source.batch(index_B[own_rows] - start))
                rows.append(own_rows)
        # `rows` says where each gathered window belongs; its inverse puts them there
        return Batch.concat(parts).select(np.argsort(np.concatenate(rows)))


def _states_by_share(states: Sequence[np.ndarray], shares: Sequence[Fraction]) -> np.ndarray:
    """As many rows of each dataset as its share of the largest one's size, evenly spread."""
    largest = max(len(part) for part in states)
    chosen = []
    for part, share in zip(states, shares, strict=True):
        count = max(1, round(largest * share))
        rows = np.linspace(0, len(part) - 1, count).round().astype(np.int64)
        chosen.append(part[rows])
    return np.concatenate(chosen)


__all__ = ["AdaptedWindows", "ReplayMixture"]
