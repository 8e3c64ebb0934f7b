"""A quantile of numbers that change while they are learned, for each task.

B windows, T steps, M numbers, S slots.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

SLOTS = 1024
"""Tasks that are kept apart, by a checksum of their text; the last slot is that of all tasks
together."""
RATE = 0.01
"""How much one number counts once many are known: about the last hundred numbers of a task."""
ENOUGH = 100
"""A task with fewer numbers than this is judged by the quantile of all tasks."""


class TaskQuantiles(nn.Module):
    """Running quantiles: each number pushes the estimate of its task up if it lies above, else
    down, in the proportion at which the estimate stands still at the quantile.

    A pass over all data would need the advantages of all data at every step, since the values
    change. An estimate that follows needs those of the batch alone, its error is a share (so it is
    robust to outliers), and it is a buffer of a fixed size, so that a resumed run goes on with it
    whatever tasks the data hold. Tasks are known by their text: two datasets that number them
    differently agree. Processes of a distributed run each keep their own, which differ little.

    Args:
        above: share of the numbers that lie above the quantile, in (0, 1).
        per_task: False keeps one quantile for all tasks.
    """

    quantile: Tensor
    spread: Tensor
    seen: Tensor

    def __init__(self, above: float, *, per_task: bool) -> None:
        super().__init__()
        self.above = above
        self.per_task = per_task
        slots = SLOTS if per_task else 1
        for name in ("quantile", "spread", "seen"):
            self.register_buffer(name, torch.zeros(slots))

    def of(self, instructions: Sequence[str]) -> Float[Tensor, " B"]:
        """The present quantile of each window's task."""
        slot_B = self._slots(instructions)
        known_B = self.seen[slot_B] >= ENOUGH
        return self.quantile[slot_B].where(known_B, self.quantile[-1])

    @torch.no_grad()
    def update(
        self,
        values_BT: Float[Tensor, "B T"],
        mask_BT: Bool[Tensor, "B T"],
        instructions: Sequence[str],
    ) -> None:
        """Moves the quantiles by a batch. Numbers under the mask do not count."""
        values_M = values_BT.float()[mask_BT]
        if not len(values_M):
            return
        if self.seen[-1] == 0:
            # not from 0: advantages of thousands would take thousands of steps to be reached
            self.quantile.fill_(torch.quantile(values_M, 1 - self.above))
        last_M = torch.full_like(values_M, len(self.quantile) - 1, dtype=torch.int64)
        self._push(values_M, last_M)
        if self.per_task:
            # a task begins at the quantile of all tasks
            fresh_S = self.seen == 0
            self.quantile.copy_(self.quantile[-1].where(fresh_S, self.quantile))
            slot_BT = self._slots(instructions)[:, None].expand(values_BT.shape)
            self._push(values_M, slot_BT[mask_BT])

    def _push(self, values_M: Tensor, slot_M: Int64[Tensor, " M"]) -> None:
        """One move of the slots that these numbers belong to."""
        zeros_S = torch.zeros_like(self.quantile)
        distance_M = values_M - self.quantile[slot_M]
        count_S = zeros_S.index_add(0, slot_M, torch.ones_like(values_M))
        divisor_S = count_S.clamp(min=1)
        above_S = zeros_S.index_add(0, slot_M, (distance_M > 0).float()) / divisor_S
        spread_S = zeros_S.index_add(0, slot_M, distance_M.abs()) / divisor_S
        # many numbers at once say more than one; a share at most, so no move is greater than 1
        rate_S = (count_S * RATE).clamp(max=1)
        follow_S = rate_S.where(self.seen > 0, 1.0)
        self.spread += (follow_S * (spread_S - self.spread)).where(count_S > 0, 0.0)
        # in units of the task's own spread: of another task's it would jump, or stand still
        self.quantile += rate_S * self.spread * (above_S - self.above)
        self.seen += count_S

    def _slots(self, instructions: Sequence[str]) -> Int64[Tensor, " B"]:
        slots = [0] * len(instructions)
        if self.per_task:
            # not `hash`, which differs from process to process
            slots = [zlib.crc32(text.encode()) % (SLOTS - 1) for text in instructions]
        return torch.tensor(slots, device=self.quantile.device)


__all__ = ["TaskQuantiles"]
