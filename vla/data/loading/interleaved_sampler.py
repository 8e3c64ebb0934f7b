"""Several datasets in every batch, in exact shares: a pure function of (seed, step, rank).

Of the first n rows each further dataset has floor(n * share): which dataset a row comes from is
arithmetic on the row's number alone, and each dataset is gone through in its own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from vla.data.loading.protocols import IndexOrder

# the order within a batch has nothing to do with what the datasets draw by the same seed
_SALT = 0x5EED


class InterleavedSampler:
    """Endless batches of windows of several datasets in a row, such as a `ReplayMixture`.

    Of the first n * batch_size rows each further dataset has the whole number below its share, so
    that its share of any run of steps errs by less than one window.

    Where the orders divide their windows among the processes, as streams do, each process draws its
    rows from its own parts, in the same shares, and reads nothing that another one uses.

    Args:
        orders: one per dataset, of one window per step and process: of batch size 1, or of
            `world_size` with the same rank and world size as this (`Windows.single_order`).
        shares: of the further datasets; the first has the rest.
        batch_size: of all processes together.
        seed: any non-negative integer.
        rank: this process; it takes rows [rank::world_size] of the global batch.
        world_size: number of processes.

    Raises ValueError if the orders are not of that kind, or the first dataset is left without rows.
    """

    def __init__(
        self,
        orders: Sequence[IndexOrder],
        shares: Sequence[Fraction],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._apart = world_size > 1 and all(order.world_size == world_size for order in orders)
        together = world_size if self._apart else 1
        of_one_window = all(
            order.batch_size == together and order.world_size == together for order in orders
        )
        if not of_one_window or len(orders) != len(shares) + 1:
            raise ValueError(
                f"{len(orders)} samplers for {len(shares)} shares; expected one more, of one "
                "window per process each"
            )
        # the rows that are drawn together: of all processes, or of this one
        self._rows = rows_drawn_together(batch_size, world_size, apart=self._apart)
        if self._rows * (1 - sum(shares)) < len(shares):
            raise ValueError(
                f"a draw of {self._rows} rows leaves no window to the first dataset in some batches"
            )
        self.orders = list(orders)
        self.shares = list(shares)  # Fractions: with floats a long run would drift off its shares
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.num_windows = sum(order.num_windows for order in orders)
        sizes = [order.num_windows for order in orders]
        self._starts = np.cumsum([0, *sizes[:-1]])

    def indices(self, step: int) -> np.ndarray:
        """This process's window numbers at step `step` >= 0, int64 (batch_size / world_size,).

        The windows of the first dataset are 0 .. its size - 1, those of the next follow.
        """
        if step < 0:
            raise ValueError(f"step is {step}; expected 0 or more")
        chosen: list[int] = []
        before, after = self._counts(step), self._counts(step + 1)
        for start, order, first, stop in zip(self._starts, self.orders, before, after, strict=True):
            # a dataset's own "step" is one window: its place in the dataset's endless row
            chosen += [start + order.indices(place)[0] for place in range(first, stop)]
        # shuffled, or every process would get one dataset's windows before another's
        permutation = np.random.default_rng([self.seed, step, _SALT]).permutation(self._rows)
        shuffled = np.asarray(chosen, dtype=np.int64)[permutation]
        return shuffled if self._apart else shuffled[self.rank :: self.world_size]

    def drawn(self, steps: int) -> list[int]:
        """Windows of each dataset in the first `steps` steps, over all processes."""
        processes = self.world_size if self._apart else 1
        return [processes * count for count in self._counts(steps)]

    def _counts(self, steps: int) -> list[int]:
        """Rows of each dataset in the first `steps` draws."""
        rows = steps * self._rows
        further = [int(rows * share) for share in self.shares]
        return [rows - sum(further), *further]


def rows_drawn_together(batch_size: int, world_size: int, *, apart: bool) -> int:
    """Rows of a step that are divided among the datasets at once.

    They are the whole batch, or one process's part of it where each process draws for itself
    (`apart`: streams).
    """
    return batch_size // world_size if apart else batch_size


__all__ = ["InterleavedSampler", "rows_drawn_together"]
