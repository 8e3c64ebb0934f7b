"""Windows of different robots in one training: drawn together, gathered robot by robot.

One robot is one micro-batch, with its own cameras, state and actions: nothing is padded to the
largest robot.

B windows, S state dimensions of a robot, A action dimensions of a robot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from vla.data.loading.protocols import WindowSource
from vla.data.loading.windows import checked_indices
from vla.types import Batch, Spec


class RobotBatch(NamedTuple):
    """A micro-batch: windows of one robot.

    Attributes:
        robot: its name; "" in a run on one robot.
        batch: as the robot's own `Spec` says.
    """

    robot: str
    batch: Batch


class RobotRows(NamedTuple):
    """Which of the windows that were drawn are of one robot.

    Attributes:
        robot: its name.
        rows: int64 (b,), ascending: their places among the windows that were drawn.
        indices: int64 (b,), their numbers in the robot's own source.
    """

    robot: str
    rows: np.ndarray
    indices: np.ndarray


class RobotWindows:
    """The windows of one robot or of several as one row of numbers, from 0 to len - 1.

    Args:
        sources: name of the robot -> its windows, all of the same history and `next_step`. Their
            order is that of the numbers.
        robots: the names in the order in which micro-batches come; by default that of the sources.
    """

    def __init__(
        self,
        sources: Mapping[str, WindowSource],
        robots: Sequence[str] | None = None,
    ) -> None:
        self.sources = dict(sources)
        # Dropout and augmentation are drawn micro-batch after micro-batch: their order is part of
        # what a seed means, and must not change with the sizes of the datasets.
        self.robots = list(sources if robots is None else robots)
        sizes = [len(source) for source in self.sources.values()]
        self._ends = np.cumsum(sizes)
        starts = (self._ends - sizes).tolist()
        self._starts = dict(zip(self.sources, starts, strict=True))
        first = next(iter(self.sources.values()))
        self.history = first.history
        self.next_step = first.next_step

    def __len__(self) -> int:
        return int(self._ends[-1])

    def divide(self, indices: np.ndarray) -> list[RobotRows]:
        """The windows `indices`, int (B,), by robot; robots without any are left out.

        Raises IndexError.
        """
        index_B = checked_indices(indices, len(self))
        # "right": the number that is one source's end is the next one's first window
        source_B = np.searchsorted(self._ends, index_B, side="right")
        names = list(self.sources)
        found = []
        for robot in self.robots:
            rows = np.flatnonzero(source_B == names.index(robot))
            if len(rows):
                found.append(RobotRows(robot, rows, index_B[rows] - self._starts[robot]))
        return found

    def batches(self, indices: np.ndarray) -> list[RobotBatch]:
        """The windows `indices`, one micro-batch for each robot in them. Raises IndexError."""
        return [
            RobotBatch(robot, self.sources[robot].batch(own))
            for robot, _, own in self.divide(indices)
        ]


def joint_spec(specs: Mapping[str, Spec]) -> Spec:
    """A spec with room for all robots: it says whether two sets of robots are the same.

    It has the cameras of each ("ROBOT/CAMERA"), as many dimensions as the largest robot, the widest
    limits, and the fastest control rate.
    """
    robots = list(specs.values())
    S = max(spec.state_dim for spec in robots)
    A = max(spec.action_dim for spec in robots)
    cameras = {}
    for name, spec in specs.items():
        for camera, size in spec.cameras.items():
            cameras[f"{name}/{camera}"] = size
    # of each dimension the robots that have it
    owners = [[spec for spec in robots if dim < spec.action_dim] for dim in range(A)]
    low = [min(spec.action_low[dim] for spec in owners[dim]) for dim in range(A)]
    high = [max(spec.action_high[dim] for spec in owners[dim]) for dim in range(A)]
    return Spec(
        cameras=cameras,
        state_names=tuple(f"state_{dim}" for dim in range(S)),
        action_names=tuple(f"action_{dim}" for dim in range(A)),
        action_low=tuple(low),
        action_high=tuple(high),
        control_hz=max(spec.control_hz for spec in robots),
    )


def dataset_shares(
    sizes: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    temperature: float = 1.0,
) -> list[Fraction]:
    """The share of each dataset in the batches; they add up to exactly 1.

    Args:
        sizes: windows of each dataset.
        weights: relative shares; by default size ** (1 / temperature).
        temperature: 1 leaves the shares of the data, larger ones draw small datasets more often
            (Arivazhagan et al. 2019, section 4.2), infinity all alike.
    """
    if weights is not None:
        # through text: Fraction(0.1) would be the binary number next to a tenth
        relative = [Fraction(str(weight)) for weight in weights]
    elif temperature == 1:
        relative = [Fraction(size) for size in sizes]
    else:
        largest = max(sizes)
        powers = [(size / largest) ** (1 / temperature) for size in sizes]
        # limited, so that sums of many steps stay numbers of a few digits
        relative = [Fraction(power).limit_denominator(10**9) for power in powers]
    return [part / sum(relative) for part in relative]


__all__ = ["RobotBatch", "RobotRows", "RobotWindows", "dataset_shares", "joint_spec"]
