"""Which windows a process draws at which step of a stream, and which frames it needs for them.

Everything here is arithmetic on the lengths of the episodes and on weights: no frame is read, and
any step can be computed. So a resumed run decodes only the block in which it stands.

N: windows of the chosen episodes (window i is the one whose last step is frame i), D: windows that
this process draws in an epoch, P: pieces of a block, R: rows of a block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vla.data.errors import DataError
from vla.data.loading.ranges import joined_ranges
from vla.data.loading.sampler import check_division, checked_weights

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
        starts, stops: int64 (P,), the pieces [start, stop) of frames, apart from each other, none
            across two episodes.
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
    """One epoch of this process.

    Attributes:
        drawn: int64 (D,), its windows, episode after episode.
        cuts: where its blocks begin in `drawn`, and D.
    """

    drawn: np.ndarray
    cuts: np.ndarray


class StreamOrder:
    """Endless batches of window indices that need few frames at a time.

    A pure function of (seed, step, rank).

    Every epoch puts the episodes in an order of its own and cuts the row of their windows into one
    contiguous part per process, of equal size (fewer than `world_size` windows are left over,
    others each epoch), and each part into blocks whose frames fit `frames_per_block`. Blocks are
    gone through one after another, the windows of a block in shuffled order. So processes share no
    window within an epoch, and no frame but those of the one episode at the seam of their parts.

    With weights an epoch holds each window in proportion to its weight: as often as its weight
    asks, rounded down or up (systematic sampling: the expectation is exact). It is as long as the
    weights' effective number of windows, (sum w)^2 / sum w^2, so that few windows come twice. What
    has no weight is not read.

    Args:
        lengths: (E,) steps of the episodes.
        batch_size: of all processes together.
        seed: any non-negative integer.
        frames_per_block: how many frames of a block there is room for.
        before, after: how many frames before and after its last step a window needs.
        rank: this process.
        world_size: number of processes; must divide `batch_size`.
        weights: (N,) non-negative, not all zero; None for all alike.
        on_blocks: called with this order and the blocks of a step before its indices are returned:
            what reads frames ahead learns here what is coming. The indices do not depend on it.

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
        check_division(batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.lengths = np.asarray(lengths, np.int64)
        self.num_windows = int(self.lengths.sum())
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._before = before
        self._after = after
        self._on_blocks = on_blocks
        window_frames = before + after + 1
        # a block may begin in the middle of an episode, and its last window may overshoot a cut
        self._room = frames_per_block - 2 * window_frames
        if self._room < 1:
            raise DataError(
                f"a block has room for {frames_per_block} frames, windows of {window_frames} "
                f"frames need at least {2 * window_frames + 1}; allow more memory "
                "(data.stream_memory_gb)"
            )
        self._ends = np.cumsum(self.lengths)
        self._starts = self._ends - self.lengths
        self._weights = None if weights is None else checked_weights(weights, self.num_windows)
        self.drawn_per_epoch = _effective_size(self._weights, self.num_windows) // world_size
        if self.drawn_per_epoch < 1:
            raise DataError(
                f"{self.num_windows} windows cannot be shared among {world_size} processes; "
                "choose more episodes"
            )
        # kept because every step looks into them; each can be computed from its number again
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._blocks: OrderedDict[BlockNumber, Block] = OrderedDict()

    def indices(self, step: int) -> np.ndarray:
        """This process's indices at step `step` >= 0, int64 (batch_size / world_size,)."""
        places = self._places(step)
        if self._on_blocks is not None:
            self._on_blocks(self, [number for number, _ in places])
        return np.concatenate([self.block(number).windows[part] for number, part in places])

    def blocks(self, step: int) -> list[BlockNumber]:
        """The blocks that this process's part of the batch of `step` comes from, in order."""
        return [number for number, _ in self._places(step)]

    def after(self, number: BlockNumber) -> BlockNumber:
        """The block that comes next."""
        if number.part + 1 < self.num_blocks(number.epoch):
            return BlockNumber(number.epoch, number.part + 1)
        return BlockNumber(number.epoch + 1, 0)

    def num_blocks(self, epoch: int) -> int:
        """Into how many blocks this process's part of an epoch is cut."""
        return len(self._epoch(epoch).cuts) - 1

    def block(self, number: BlockNumber) -> Block:
        """Raises IndexError if the epoch has fewer blocks."""
        found = self._blocks.get(number)
        if found is None:
            found = self._build(number)
            self._blocks[number] = found
            while len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return found

    def _places(self, step: int) -> list[tuple[BlockNumber, slice]]:
        """The blocks of a step, and which of each block's windows it takes."""
        if step < 0:
            raise ValueError(f"step is {step}; expected 0 or more")
        own_rows = self.batch_size // self.world_size
        place = step * own_rows
        end = place + own_rows
        found = []
        # a batch may lie across blocks, and across epochs
        while place < end:
            epoch, offset = divmod(place, self.drawn_per_epoch)
            cuts = self._epoch(epoch).cuts
            part = int(np.searchsorted(cuts, offset, side="right")) - 1
            first, stop = int(cuts[part]), int(cuts[part + 1])
            count = min(end - place, stop - offset)
            begin = offset - first
            found.append((BlockNumber(epoch, part), slice(begin, begin + count)))
            place += count
        return found

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            found = self._cut(self._drawn(epoch))
            self._epochs[epoch] = found
            while len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return found

    def _cut(self, drawn: np.ndarray) -> _Epoch:
        """Cuts an epoch's windows into as few blocks as fit, with about equally many frames."""
        frames = self._new_frames(drawn).cumsum()
        total = frames[-1]
        blocks = -(-int(total) // self._room)  # rounded up
        inner = np.searchsorted(frames, total * np.arange(1, blocks) / blocks, side="left")
        # unique: a cut within one window that needs very many frames would be made twice
        return _Epoch(drawn, np.unique(np.concatenate([[0], inner, [len(drawn)]])))

    def _drawn(self, epoch: int) -> np.ndarray:
        """This process's windows of an epoch, int64 (D,): in its order, steps ascending."""
        rng = np.random.default_rng([self.seed, epoch, _SALT])
        order = rng.permutation(len(self.lengths))
        row = joined_ranges(self._starts[order], self.lengths[order])
        first = self.rank * self.drawn_per_epoch
        if self._weights is None:
            return row[first : first + self.drawn_per_epoch]
        # Systematic sampling: evenly spaced marks, moved by one draw together, on the row of summed
        # weights. All processes make the same draw and take their own marks.
        cumulative = np.cumsum(self._weights[row])
        marks = first + np.arange(self.drawn_per_epoch) + rng.random()
        fractions = marks / (self.drawn_per_epoch * self.world_size)
        places = np.searchsorted(cumulative, fractions * cumulative[-1], side="right")
        # marks just below the end may round up to it
        last_positive = np.flatnonzero(self._weights[row])[-1]
        return row[np.minimum(places, last_positive)]

    def _needed(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The frames of each window, all int64 (D,).

        Returns:
            first frame, end of the frames, and end of the frames that the window before it needs (0
            if that is in another episode).
        """
        episode = np.searchsorted(self._ends, drawn, side="right")
        begin = np.maximum(drawn - self._before, self._starts[episode])
        end = np.minimum(drawn + self._after + 1, self._ends[episode])
        same_episode = np.concatenate([[False], episode[1:] == episode[:-1]])
        end_before = np.concatenate([[0], end[:-1]])
        return begin, end, np.where(same_episode, end_before, 0)

    def _new_frames(self, drawn: np.ndarray) -> np.ndarray:
        """How many frames each window needs beyond those of the windows before it, (D,)."""
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
        # A piece begins where a window's frames do not touch those of the window before: in another
        # episode, or where weights have left out windows between.
        heads = np.flatnonzero((covered == 0) | (begin > covered))
        tails = np.append(heads[1:], len(drawn)) - 1
        starts = begin[heads]
        stops = end[tails]
        sizes = stops - starts
        rows = np.cumsum(sizes) - sizes
        rng = np.random.default_rng([self.seed, number.epoch, number.part, self.rank, _SALT])
        return Block(rng.permutation(drawn), starts, stops, rows, int(sizes.sum()))


def _effective_size(weights: np.ndarray | None, num_windows: int) -> int:
    """How many windows of equal weight would say as much (Kish's effective sample size)."""
    if weights is None:
        return num_windows
    size = float(weights.sum() ** 2 / np.square(weights).sum())
    return max(1, round(size))


__all__ = ["Block", "BlockNumber", "StreamOrder"]
