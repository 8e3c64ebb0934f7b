"""How often each window is drawn, and how the batch of a step is divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vla.config import ConfigError
from vla.data import (
    Windows,
    episode_balanced_weights,
    solved_share_weights,
    task_balanced_weights,
)
from vla.data.loading.interleaved_sampler import InterleavedSampler, rows_drawn_together
from vla.data.loading.protocols import IndexOrder
from vla.training.config import DataConfig
from vla.training.objective import Objective
from vla.training.patterns import values_by_name
from vla.training.seeding import seed_of


@dataclass(frozen=True)
class BatchPlan:
    """How many windows a step has, how they are divided, and from which seed they are drawn.

    Attributes:
        batch_size: windows of a step, over all processes and micro-batches.
        micro_batches: into which each process divides its part.
        seed: of the run.
        rank: this process.
        world_size: number of processes.
    """

    batch_size: int
    micro_batches: int
    seed: int
    rank: int = 0
    world_size: int = 1

    @property
    def micro_batch_size(self) -> int:
        """Windows of one process's micro-batch, at least 1."""
        return max(1, self.batch_size // (self.world_size * self.micro_batches))

    def check(self) -> None:
        """Raises ConfigError if the batch does not divide among processes and micro-batches."""
        parts = self.world_size * self.micro_batches
        if self.batch_size % parts:
            raise ConfigError(
                [
                    f"batch_size: {self.batch_size} does not divide among {self.world_size} "
                    f"processes x {self.micro_batches} micro-batches; use a multiple of {parts}"
                ]
            )

    def rows_together(self, data: DataConfig) -> int:
        """Windows of a step that are divided among several datasets at once."""
        # streams are divided among processes, so that none decodes what another one uses
        apart = data.cache == "stream"
        return rows_drawn_together(self.batch_size, self.world_size, apart=apart)


def build_order(
    data: DataConfig,
    plan: BatchPlan,
    windows: Windows,
    objective: Objective,
) -> IndexOrder:
    """Which windows of one dataset come at each step.

    Raises ConfigError if the global batch does not divide among processes and micro-batches.
    """
    plan.check()
    return windows.order(
        batch_size=plan.batch_size,
        seed=plan.seed,
        rank=plan.rank,
        world_size=plan.world_size,
        weights=window_weights(data, windows, objective),
    )


def interleaved_order(
    data: DataConfig,
    plan: BatchPlan,
    datasets: Sequence[tuple[int, Windows]],
    shares: Sequence[Fraction],
    objective: Objective,
    *,
    salt: int,
) -> InterleavedSampler:
    """Which windows of several datasets come at each step.

    Args:
        datasets: a number that stands for the dataset in its seed, and its windows; the first has
            what the others leave.
        shares: of the datasets after the first.
        salt: keeps the datasets' seeds apart from those of other uses of the run's seed.
    """
    orders = []
    for number, windows in datasets:
        orders.append(
            windows.single_order(
                # a dataset's own: two datasets of one size must not be gone through alike
                seed=seed_of(plan.seed, salt, number),
                rank=plan.rank,
                world_size=plan.world_size,
                weights=window_weights(data, windows, objective),
            )
        )
    return InterleavedSampler(
        orders,
        shares,
        batch_size=plan.batch_size,
        seed=plan.seed,
        rank=plan.rank,
        world_size=plan.world_size,
    )


def window_weights(data: DataConfig, windows: Windows, objective: Objective) -> np.ndarray | None:
    """How often each window is drawn, relative to the others, (N,); None for all alike.

    Raises:
        ConfigError: nothing would be drawn.
    """
    # the order matters: each of these keeps what the ones before it have decided
    weights = None
    if data.task_balance is not None:
        weights = task_balanced_weights(windows, temperature=data.task_balance)
    if data.episode_balance:
        weights = episode_balanced_weights(windows, weights)
    if data.solved_share is not None:
        windows.dataset.require_recorded("success", "data.solved_share")
        weights = solved_share_weights(windows, data.solved_share, weights)
    task_weights = _task_weights(data, windows)
    for factor in (objective.window_weights(windows), task_weights):
        if factor is not None:
            weights = factor if weights is None else weights * factor
    if task_weights is not None and weights is not None and not weights.any():
        raise ConfigError(
            [f"data.task_weights: leave nothing of {windows.dataset.root} to learn from; raise one"]
        )
    return weights


def check_task_weights(data: DataConfig, instructions: Sequence[str]) -> None:
    """Raises ConfigError if a pattern of the task weights fits none of the instructions."""
    # over all datasets of a run: a pattern may be meant for one of them
    distinct = list(dict.fromkeys(instructions))
    values_by_name(data.task_weights, distinct, key="data.task_weights")


def _task_weights(data: DataConfig, windows: Windows) -> np.ndarray | None:
    """The weight of each window's task, (N,); None if the config names none of the data's tasks."""
    names = list(dict.fromkeys(windows.instructions))
    chosen = values_by_name(data.task_weights, names, key=None)
    if not chosen:
        return None
    # (number of instructions,): a task that the config does not name counts as it is
    of_task = np.array([chosen.get(text, 1.0) for text in windows.instructions])
    return of_task[windows.task_index]


__all__ = [
    "BatchPlan",
    "build_order",
    "check_task_weights",
    "interleaved_order",
    "window_weights",
]
