"""The micro-batches of each step, loaded ahead of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from vla.data import prefetch
from vla.data.loading.multi_robot import RobotBatch, RobotWindows
from vla.data.loading.protocols import IndexOrder
from vla.data.loading.shortening import draw_first_seen, hide_oldest
from vla.types import Batch


def step_batches(
    windows: RobotWindows,
    order: IndexOrder,
    steps: range,
    *,
    micro_batches: int,
    device: torch.device,
    variable_history: bool = False,
) -> Iterator[tuple[int, list[RobotBatch]]]:
    """Yields (step, its micro-batches), assembled in a thread while the steps before are computed.

    Args:
        windows: of one robot or several.
        order: which of them come at a step.
        steps: which steps; they count from 1.
        micro_batches: into how many parts this process's windows are divided. Each part is one
            micro-batch for every robot that has windows in it.
        device: batches for CUDA are in pinned memory.
        variable_history: hide a random number of the oldest steps of every window.
    """

    def load(step: int) -> list[RobotBatch]:
        rows = order.indices(step - 1)
        # seeded by step and process, like the order: a resumed run hides the same steps
        rng = np.random.default_rng([order.seed, step, order.rank])
        found = []
        for indices in np.split(rows, micro_batches):
            # for the whole part: what a window hides does not depend on the robots beside it
            first_seen_B: np.ndarray | None = None
            if variable_history:
                first_seen_B = draw_first_seen(rng, len(indices), windows.history)
            for robot, own_rows, own_indices in windows.divide(indices):
                batch = windows.sources[robot].batch(own_indices)
                if first_seen_B is not None:
                    batch = hide_oldest(batch, first_seen_B[own_rows])
                if device.type == "cuda":
                    batch = batch.pin_memory()
                found.append(RobotBatch(robot, batch))
        return found

    return prefetch((step, load(step)) for step in steps)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; on CUDA the copy goes on while the program does."""
    if device.type == "cpu":
        return batch  # a walk through all fields, which a small network's step would feel
    return batch.to(device, non_blocking=device.type == "cuda")


__all__ = ["step_batches", "to_device"]
