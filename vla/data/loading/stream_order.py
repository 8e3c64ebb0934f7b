"""Which windows a process draws at which step where frames are streamed, and which frames it needs for them.

Everything here is arithmetic on the lengths of the episodes and on weights: no frame is read, and any step can be asked for.

N: windows of the chosen episodes (window i is the one whose last step is frame i), P: pieces of a block, R: rows of a block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vla.data.errors import DataError
from vla.data.loading.ranges import spans

_SALT = 0x57E4
_EPOCHS_KEPT = 2  # the one that is drawn from and the one that is read ahead
_BLOCKS_KEPT = 4


class BlockNumber(NamedTuple):
    """Where a block stands in the endless row of a process's blocks."""

    epoch: int
    part: int


@dataclass(frozen=True)
class Block:
    """Windows that are drawn one after another, and the frames that they need.

    Attributes:
        windows: int64, in the order in which they are drawn.
        starts, stops: int64 (P,), the pieces [start, stop) of frames, apart from each other, none across two episodes.
        rows: int64 (P,), where each piece begins when the pieces lie side by side.
        num_rows: R, frames of all pieces.
    """

    windows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    rows: np.ndarray
    num_rows: int


@dataclass(frozen=True)
class _Epoch:
    """drawn: windows of this process, episode after episode. cuts: where its blocks begin, and the end."""

    drawn: np.ndarray
    cuts: np.ndarray


class StreamOrder:
    """Endless batches of window indices that need few frames at a time; a pure function of (seed, step, rank).

    Every epoch puts the episodes in an order of its own and cuts the row of their windows into one contiguous part per
    process, of equal size (fewer than `world_size` windows are left over, others each epoch), and each part into blocks
    whose frames fit `frames_per_block`. Blocks are gone through one after another, the windows of a block in shuffled order.
    So processes share no window within an epoch, and no frame but those of the one episode at the seam of their parts.

    With weights an epoch holds each window in proportion to its weight: as often as its weight asks, rounded down or up
    (systematic sampling: the expectation is exact). It is as long as the weights' effective number of windows,
    (sum w)^2 / sum w^2, so that few windows come twice. What has no weight is not read.

    Args:
        lengths: (E,) steps of the episodes.
        batch_size: of all processes together.
        seed: any non-negative integer.
        frames_per_block: how many frames of a block there is room for.
        before, after: how many frames before and after its last step a window needs.
        rank: this process.
        world_size: number of processes; must divide `batch_size`.
        weights: (N,) non-negative, not all zero; None for all alike.
        on_blocks: called with this order and the blocks of a step before its indices are returned: what reads frames ahead
            learns here what is coming. The indices do not depend on it.

    Raises:
        DataError: a block has no room for some windows, or there are fewer windows than processes.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        frames_per_block: int,
        before: int,
        after: int = 0,
        rank: int = 0,
        world_size: int = 1,
        weights: np.ndarray | None = None,
        on_blocks: Callable[[StreamOrder, list[BlockNumber]], None] | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size is {batch_size}; expected a positive multiple of world_size {world_size}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; expected 0 to {world_size - 1}")
        if seed < 0:
            raise ValueError(f"seed is {seed}; expected a non-negative integer")
        self.lengths = np.asarray(lengths, np.int64)
        self.num_windows = int(self.lengths.sum())
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self._before, self._after, self._on_blocks = before, after, on_blocks
        # a block's first window may be in the middle of an episode, and its last one may overshoot an even cut
        self._room = frames_per_block - 2 * (before + after + 1)
        if self._room < 1:
            raise DataError(
                f"a block has room for {frames_per_block} frames, windows of {before + after + 1} frames need at least "
                f"{2 * (before + after + 1) + 1}; allow more memory (data.stream_memory_gb)"
            )
        self._ends = np.cumsum(self.lengths)
        self._starts = self._ends - self.lengths
        self._weights = None if weights is None else _checked(weights, self.num_windows)
        self.drawn_per_epoch = _effective(self._weights, self.num_windows) // world_size
        if self.drawn_per_epoch < 1:
            raise DataError(
                f"{self.num_windows} windows cannot be shared among {world_size} processes; choose more episodes"
            )
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._blocks: OrderedDict[BlockNumber, Block] = OrderedDict()

    def indices(self, step: int) -> np.ndarray:
        """This process's window indices at optimiser step `step` >= 0, int64 (batch_size / world_size,)."""
        numbers, places = self._places(step)
        if self._on_blocks is not None:
            self._on_blocks(self, list(numbers))
        return np.concatenate(
            [self.block(n).windows[place] for n, place in zip(numbers, places, strict=True)]
        )

    def blocks(self, step: int) -> list[BlockNumber]:
        """The blocks that this process's part of the batch of `step` comes from, in order."""
        return self._places(step)[0]

    def after(self, number: BlockNumber) -> BlockNumber:
        """The block that comes next."""
        if number.part + 2 < len(self._epoch(number.epoch).cuts):
            return BlockNumber(number.epoch, number.part + 1)
        return BlockNumber(number.epoch + 1, 0)

    def num_blocks(self, epoch: int) -> int:
        """Into how many blocks this process's part of an epoch is cut."""
        return len(self._epoch(epoch).cuts) - 1

    def block(self, number: BlockNumber) -> Block:
        """Raises IndexError where the epoch has fewer blocks."""
        found = self._blocks.get(number)
        if found is None:
            found = self._blocks[number] = self._build(number)
            while len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return found

    def _places(self, step: int) -> tuple[list[BlockNumber], list[slice]]:
        """The blocks of a step, and which of each block's windows it takes."""
        if step < 0:
            raise ValueError(f"step is {step}; expected 0 or more")
        own = self.batch_size // self.world_size
        place, last = step * own, (step + 1) * own
        numbers, slices = [], []
        while place < last:
            epoch, offset = divmod(place, self.drawn_per_epoch)
            cuts = self._epoch(epoch).cuts
            index = int(np.searchsorted(cuts, offset, side="right")) - 1
            begin, count = int(cuts[index]), min(last - place, int(cuts[index + 1]) - offset)
            numbers.append(BlockNumber(epoch, index))
            slices.append(slice(offset - begin, offset - begin + count))
            place += count
        return numbers, slices

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            drawn = self._drawn(epoch)
            needed = self._new_frames(drawn).cumsum()
            blocks = -(-int(needed[-1]) // self._room)
            inner = np.searchsorted(needed, needed[-1] * np.arange(1, blocks) / blocks, side="left")
            found = self._epochs[epoch] = _Epoch(
                drawn, np.unique(np.concatenate([[0], inner, [len(drawn)]]))
            )
            while len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return found

    def _drawn(self, epoch: int) -> np.ndarray:
        """This process's windows of an epoch, episodes in the epoch's order, steps of an episode ascending."""
        rng = np.random.default_rng([self.seed, epoch, _SALT])
        order = rng.permutation(len(self.lengths))
        row = spans(self._starts[order], self.lengths[order])
        first = self.rank * self.drawn_per_epoch
        if self._weights is None:
            return row[first : first + self.drawn_per_epoch]
        cumulative = np.cumsum(self._weights[row])
        marks = (first + np.arange(self.drawn_per_epoch) + rng.random()) / (
            self.drawn_per_epoch * self.world_size
        )
        places = np.searchsorted(cumulative, marks * cumulative[-1], side="right")
        # marks just below the end may round up to it
        return row[np.minimum(places, np.flatnonzero(self._weights[row])[-1])]

    def _needed(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> first frame, end of frames, and end of the frames that the window before it needs (0 in another episode)."""
        episode = np.searchsorted(self._ends, drawn, side="right")
        begin = np.maximum(drawn - self._before, self._starts[episode])
        end = np.minimum(drawn + self._after + 1, self._ends[episode])
        same = np.concatenate([[False], episode[1:] == episode[:-1]])
        return begin, end, np.where(same, np.concatenate([[0], end[:-1]]), 0)

    def _new_frames(self, drawn: np.ndarray) -> np.ndarray:
        """How many frames each window needs that the windows before it in its episode do not."""
        begin, end, covered = self._needed(drawn)
        return end - np.maximum(begin, covered)

    def _build(self, number: BlockNumber) -> Block:
        epoch = self._epoch(number.epoch)
        if not 0 <= number.part < len(epoch.cuts) - 1:
            raise IndexError(
                f"block {number.part}; epoch {number.epoch} has 0 to {len(epoch.cuts) - 2}"
            )
        drawn = epoch.drawn[epoch.cuts[number.part] : epoch.cuts[number.part + 1]]
        begin, end, covered = self._needed(drawn)
        heads = np.flatnonzero((covered == 0) | (begin > covered))
        starts, stops = begin[heads], end[np.append(heads[1:], len(drawn)) - 1]
        sizes = stops - starts
        rng = np.random.default_rng([self.seed, number.epoch, number.part, self.rank, _SALT])
        return Block(
            rng.permutation(drawn), starts, stops, np.cumsum(sizes) - sizes, int(sizes.sum())
        )


def _checked(weights: np.ndarray, num_windows: int) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if weights.shape != (num_windows,):
        raise ValueError(
            f"weights have shape {weights.shape}; expected {(num_windows,)}: one per window"
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError("weights must be finite, non-negative and not all zero")
    return weights


def _effective(weights: np.ndarray | None, num_windows: int) -> int:
    """How many windows of equal weight would tell as much (Kish's effective sample size)."""
    return (
        num_windows
        if weights is None
        else max(1, round(float(weights.sum() ** 2 / np.square(weights).sum())))
    )
