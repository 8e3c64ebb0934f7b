"""Windows of different robots in one batch, each with its own cameras, state and actions.

State and actions are padded with zeros to those of the largest robot. Images are not: they stand under "NUMBER/CAMERA" and
hold the rows of that robot alone, so that cameras of different sizes cost what they weigh.

B windows, T steps, K actions per chunk, A action dimensions of a robot, S state dimensions of a robot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla.data.loading.windows import Windows
from vla.types import Batch, Spec

_APART = ("images", "instruction", "robot")


class MixedRobots:
    """Windows of several robots' datasets as one row of windows, with the interface of `Windows`.

    Args:
        sources: number of the robot -> its windows, all of the same history and chunk. Their order is that of the windows'
            indices.

    Attributes:
        sizes: windows of each dataset.
        instructions: of all datasets; `task_index` counts through them.
    """

    next_step = 0

    def __init__(self, sources: Mapping[int, Windows]) -> None:
        self.sources = dict(sources)
        self.sizes = [len(windows) for windows in self.sources.values()]
        self.instructions = [
            text for windows in self.sources.values() for text in windows.instructions
        ]
        self._ends = np.cumsum(self.sizes)
        tasks = [len(windows.instructions) for windows in self.sources.values()]
        self._first_task = np.cumsum([0, *tasks[:-1]])
        self._state_dim = max(windows.spec.state_dim for windows in self.sources.values())
        self._action_dim = max(windows.spec.action_dim for windows in self.sources.values())

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
        parts = []
        for place, (robot, windows) in enumerate(self.sources.items()):
            rows = np.flatnonzero(source_B == place)
            if len(rows):
                part = windows.batch(index_B[rows] - (self._ends[place] - self.sizes[place]))
                part = dataclasses.replace(
                    part, task_index=part.task_index + int(self._first_task[place])
                )
                parts.append((robot, rows, part))
        return join_robots(parts, state_dim=self._state_dim, action_dim=self._action_dim)


def join_robots(
    parts: Sequence[tuple[int, np.ndarray, Batch]], *, state_dim: int, action_dim: int
) -> Batch:
    """One batch of the windows of several robots.

    Args:
        parts: number of the robot, the rows of the joined batch that its windows take (ascending), and the windows.
        state_dim, action_dim: of the largest robot.
    """
    sizes = {"state": state_dim, "keyframe": state_dim, "actions": action_dim}
    B = sum(len(rows) for _, rows, _ in parts)
    values: dict[str, Any] = {"instruction": [""] * B, "robot": torch.empty(B, dtype=torch.int64)}
    values["images"] = {
        f"{robot}/{name}": x for robot, _, part in parts for name, x in part.images.items()
    }
    for f in dataclasses.fields(Batch):
        if f.name not in _APART:
            first = getattr(parts[0][2], f.name)
            inner = (*first.shape[1:-1], sizes[f.name]) if f.name in sizes else first.shape[1:]
            values[f.name] = first.new_zeros(B, *inner)
    for robot, rows, part in parts:
        index = torch.from_numpy(rows)
        values["robot"][index] = robot
        for row, text in zip(rows.tolist(), part.instruction, strict=True):
            values["instruction"][row] = text
        for f in dataclasses.fields(Batch):
            if f.name in sizes:
                value = getattr(part, f.name)
                values[f.name][index, ..., : value.shape[-1]] = value
            elif f.name not in _APART:
                values[f.name][index] = getattr(part, f.name)
    return Batch(**values)


def of_robot(
    batch: Batch, robot: int, *, state_dim: int, action_dim: int
) -> tuple[Tensor, Batch | None]:
    """The windows of one robot as it knows them, without padding and with its own cameras.

    Returns:
        their rows in the batch, ascending; and the windows, None where there are none.

    Raises:
        ValueError: the batch does not say which robot its windows are of.
    """
    if batch.robot is None:
        raise ValueError(
            "the batch does not say which robot its windows are of; join them with join_robots"
        )
    rows = (batch.robot == robot).nonzero().flatten()
    if not len(rows):
        return rows, None
    mark, sizes = f"{robot}/", {"state": state_dim, "keyframe": state_dim, "actions": action_dim}
    values: dict[str, Any] = {
        "images": {
            name.removeprefix(mark): x for name, x in batch.images.items() if name.startswith(mark)
        },
        "instruction": [batch.instruction[row] for row in rows.tolist()],
    }
    for f in dataclasses.fields(Batch):
        if f.name not in _APART:
            value = getattr(batch, f.name)[rows]
            values[f.name] = value[..., : sizes[f.name]] if f.name in sizes else value
    return rows, Batch(**values)


def joint_spec(specs: Mapping[str, Spec]) -> Spec:
    """A spec with room for all robots: the cameras of each ("ROBOT/CAMERA"), as many dimensions as the largest has, the
    widest limits, and the fastest control rate. It is no robot's own."""
    S = max(spec.state_dim for spec in specs.values())
    A = max(spec.action_dim for spec in specs.values())
    return Spec(
        cameras={
            f"{name}/{camera}": size
            for name, spec in specs.items()
            for camera, size in spec.cameras.items()
        },
        state_names=tuple(f"state_{i}" for i in range(S)),
        action_names=tuple(f"action_{i}" for i in range(A)),
        action_low=tuple(
            min(spec.action_low[i] for spec in specs.values() if i < spec.action_dim)
            for i in range(A)
        ),
        action_high=tuple(
            max(spec.action_high[i] for spec in specs.values() if i < spec.action_dim)
            for i in range(A)
        ),
        control_hz=max(spec.control_hz for spec in specs.values()),
    )


def mixture_shares(
    sizes: Sequence[int], *, weights: Sequence[float] | None = None, temperature: float = 1.0
) -> list[Fraction]:
    """The share of each dataset in the batches; they add up to exactly 1.

    Args:
        sizes: windows of each dataset.
        weights: relative shares; by default size ** (1 / temperature).
        temperature: 1 leaves the shares of the data, larger ones draw small datasets more often (Arivazhagan et al. 2019,
            section 4.2), infinity all alike.
    """
    if weights is not None:
        relative = [Fraction(str(weight)) for weight in weights]
    elif temperature == 1:
        relative = [Fraction(size) for size in sizes]
    else:
        largest = max(sizes)
        relative = [
            Fraction((size / largest) ** (1 / temperature)).limit_denominator(10**9)
            for size in sizes
        ]
    return [part / sum(relative) for part in relative]


__all__ = ["MixedRobots", "join_robots", "joint_spec", "mixture_shares", "of_robot"]
