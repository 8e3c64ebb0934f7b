"""Windows of several datasets in one batch, in exact shares: a pure function of (seed, step, rank), as for one dataset.

B windows, T steps, S state dimensions of the policy's robot, H and W image height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vla.data.loading.sampler import WindowSampler
from vla.data.loading.stream_order import StreamOrder
from vla.data.loading.windows import Windows
from vla.types import Batch, Spec

_SALT = 0x5EED


class AdaptedWindows:
    """Windows of one robot's data as another robot would have seen them.

    Args:
        windows: of a robot with the same actions, with the cameras that `cameras` names.
        spec: the robot that the batches are for.
        cameras: camera of `spec` -> camera of the data. Images are resized where their size is another.
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
        self.windows, self.cameras, self.first_task = windows, dict(cameras), first_task
        self._sizes = {camera: spec.cameras[camera] for camera in cameras}
        self._fill = torch.as_tensor(fill, dtype=torch.float32)
        there = windows.spec.state_names
        self._columns = [
            (i, there.index(name)) for i, name in enumerate(spec.state_names) if name in there
        ]

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def states(self) -> np.ndarray:
        """float32 (N, S), as the policy's robot would have told them."""
        return self._state(torch.from_numpy(self.windows.states)[None])[0].numpy()

    def batch(self, indices: np.ndarray) -> Batch:
        """See `Windows.batch`."""
        batch = self.windows.batch(indices)
        return dataclasses.replace(
            batch,
            images={
                new: resized(batch.images[old], self._sizes[new])
                for new, old in self.cameras.items()
            },
            state=self._state(batch.state),
            keyframe=self._state(batch.keyframe),
            task_index=batch.task_index + self.first_task,
        )

    def _state(self, state_BTS: Tensor) -> Float[Tensor, "B T S"]:
        found = self._fill.expand(*state_BTS.shape[:2], -1).clone()
        for here, there in self._columns:
            found[..., here] = state_BTS[..., there]
        return found


class Mixture:
    """Windows of a dataset and of further ones as one row of windows.

    Args:
        shares: of the further datasets in the batches; the first has the rest.

    Attributes:
        actions: of all data, (N, A).
        states: of each dataset as many as its share, evenly spread over it, (M, S): what normalisation is to be fitted to,
            where one dataset is much larger than another.
        instructions, lengths: of all data.
    """

    def __init__(
        self, first: Windows, further: Sequence[AdaptedWindows], shares: Sequence[Fraction]
    ) -> None:
        self.first, self.further = first, list(further)
        sources = [first, *(part.windows for part in further)]
        self.next_step = first.next_step
        states = [first.states, *(part.states for part in self.further)]
        total = max(len(part) for part in states)
        self.states = np.concatenate(
            [
                part[
                    np.linspace(0, len(part) - 1, max(1, round(total * share)))
                    .round()
                    .astype(np.int64)
                ]
                for part, share in zip(states, [1 - sum(shares), *shares], strict=True)
            ]
        )
        self.actions = np.concatenate([source.actions for source in sources])
        self.lengths = np.concatenate([source.lengths for source in sources])
        self.instructions = [text for source in sources for text in source.instructions]
        self.sizes = [len(source) for source in sources]
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows `indices`, in their order. Raises IndexError."""
        index_B = np.asarray(indices, dtype=np.int64)
        if index_B.size and (index_B.min() < 0 or index_B.max() >= len(self)):
            raise IndexError(
                f"window indices {index_B.min()} to {index_B.max()}; there are 0 to {len(self) - 1}"
            )
        source_B = np.searchsorted(self._ends, index_B, side="right")
        parts, rows = [], []
        sources: list[Windows | AdaptedWindows] = [self.first, *self.further]
        for number, source in enumerate(sources):
            own = np.flatnonzero(source_B == number)
            if len(own):
                parts.append(source.batch(index_B[own] - (self._ends[number] - self.sizes[number])))
                rows.append(own)
        return select_windows(_joined(parts), np.argsort(np.concatenate(rows)))


class MixtureSampler:
    """Endless batches of indices of a `Mixture`.

    Of the first n * batch_size rows each further dataset has the whole number below its share, so that its share of any
    run of steps errs by less than one window. Each dataset is gone through in its own order.

    Where the samplers divide their windows among the processes, as streams do, each process draws its rows from its own
    parts, in the same shares, and reads nothing that another one uses.

    Args:
        samplers: one per dataset, of one window per step and process: of batch size 1, or of `world_size` with the same rank
            and world size as this.
        shares: of the further datasets; the first has the rest.
        batch_size: of all processes together.
        rank: this process; it takes rows [rank::world_size] of the global batch.
    """

    def __init__(
        self,
        samplers: Sequence[WindowSampler | StreamOrder],
        shares: Sequence[Fraction],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._apart = world_size > 1 and all(
            sampler.world_size == world_size for sampler in samplers
        )
        single = all(
            sampler.batch_size == sampler.world_size == (world_size if self._apart else 1)
            for sampler in samplers
        )
        if not single or len(samplers) != len(shares) + 1:
            raise ValueError(
                f"{len(samplers)} samplers for {len(shares)} shares; expected one more, of one window per process each"
            )
        # the rows that are drawn together: of all processes, or of this one
        self._rows = batch_size // world_size if self._apart else batch_size
        if self._rows * (1 - sum(shares)) < len(shares):
            raise ValueError(
                f"a draw of {self._rows} rows leaves no window to the first dataset in some batches"
            )
        self.samplers, self.shares, self.batch_size = list(samplers), list(shares), batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self._starts = np.cumsum([0, *(sampler.num_windows for sampler in samplers[:-1])])

    def indices(self, step: int) -> np.ndarray:
        """This process's window indices at optimiser step `step` >= 0, int64 (batch_size / world_size,)."""
        if step < 0:
            raise ValueError(f"step is {step}; expected 0 or more")
        chosen = [
            start + sampler.indices(place)[0]
            for start, sampler, places in zip(
                self._starts, self.samplers, self._places(step), strict=True
            )
            for place in places
        ]
        order = np.random.default_rng([self.seed, step, _SALT]).permutation(self._rows)
        shuffled = np.asarray(chosen, dtype=np.int64)[order]
        return shuffled if self._apart else shuffled[self.rank :: self.world_size]

    def drawn(self, steps: int) -> list[int]:
        """Windows of each dataset in the first `steps` steps, over all processes."""
        processes = self.world_size if self._apart else 1
        return [processes * count for count in self._counts(steps)]

    def _counts(self, steps: int) -> list[int]:
        rows = steps * self._rows
        further = [int(rows * share) for share in self.shares]
        return [rows - sum(further), *further]

    def _places(self, step: int) -> list[range]:
        """Which of each dataset's endless row of windows come in this step."""
        return [
            range(*ends) for ends in zip(self._counts(step), self._counts(step + 1), strict=True)
        ]


def resized(
    images: UInt8[Tensor, "B T h w 3"], size: tuple[int, int]
) -> UInt8[Tensor, "B T H W 3"]:
    """Bilinear, antialiased where it shrinks."""
    h, w = images.shape[2:4]
    if (h, w) == tuple(size):
        return images
    x = images.flatten(0, 1).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, size=size, mode="bilinear", antialias=h > size[0] or w > size[1])
    return (
        x.round()
        .clamp(0, 255)
        .byte()
        .permute(0, 2, 3, 1)
        .contiguous()
        .unflatten(0, images.shape[:2])
    )


def _joined(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    values: dict[str, Any] = {}
    for f in dataclasses.fields(Batch):
        items = [getattr(part, f.name) for part in parts]
        if f.name == "images":
            shared = [camera for camera in items[0] if all(camera in item for item in items)]
            values[f.name] = {
                camera: torch.cat([item[camera] for item in items]) for camera in shared
            }
        elif items[0] is not None:
            values[f.name] = (
                torch.cat(items)
                if isinstance(items[0], Tensor)
                else [x for item in items for x in item]
            )
    return Batch(**values)


def select_windows(batch: Batch, rows: np.ndarray) -> Batch:
    """Some windows of a batch, in the order given."""
    if np.array_equal(rows, np.arange(batch.batch_size)):
        return batch
    index = torch.from_numpy(rows)
    values: dict[str, Any] = {}
    for f in dataclasses.fields(Batch):
        value = getattr(batch, f.name)
        if f.name == "images":
            values[f.name] = {
                camera: image[_image_rows(batch, camera, index)] for camera, image in value.items()
            }
        elif f.name == "instruction":
            values[f.name] = [value[row] for row in rows]
        else:
            values[f.name] = None if value is None else value[index]
    return Batch(**values)


def _image_rows(batch: Batch, camera: str, index: Tensor) -> Tensor:
    """Where the images of the windows `index` stand: of several robots' images each has its own rows alone."""
    if batch.robot is None:
        return index
    own_B = batch.robot.cpu() == int(camera.partition("/")[0])
    return (own_B.cumsum(0) - 1)[index][own_B[index]]


__all__ = ["AdaptedWindows", "Mixture", "MixtureSampler", "resized", "select_windows"]
