"""Frames of the present block of a stream, and of the next ones, which threads decode meanwhile.

What a held block has already is copied from it. So data that fit into one block are decoded once.

N: frames of the chosen episodes, numbered side by side, R: rows that a block has room for, B:
windows in a batch, H and W: image height and width.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from vla.common.cores import usable_cores
from vla.data.loading.decoding import PIECE_FRAMES, fill
from vla.data.loading.streaming.daemon_threads import Workers
from vla.data.loading.streaming.stream_order import Block, BlockNumber
from vla.data.reader import EpisodeDataset

SLOTS = 3
"""Blocks that are held: the present one, the next one, and the one that is decoded."""


class BlockFrames:
    """Room for a few blocks of decoded frames, filled in the background and used again and again.

    Args:
        dataset: where the images are.
        cameras: which of its cameras.
        rows: R.
        dataset_frame: (N,), the dataset's number of each frame.
        threads: how many decode at once; by default one per core, shared among the processes of
            this machine.

    Attributes:
        frames: camera -> uint8 (SLOTS * R, H, W, 3).
        decoded: frames of one camera decoded so far, of all blocks.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        cameras: Sequence[str],
        *,
        rows: int,
        dataset_frame: np.ndarray,
        threads: int | None = None,
    ) -> None:
        self._dataset = dataset
        self._rows = rows
        self._dataset_frame = dataset_frame
        self.frames: dict[str, np.ndarray] = {}
        for camera in cameras:
            size = dataset.spec.cameras[camera]
            self.frames[camera] = np.empty((SLOTS * rows, *size, 3), np.uint8)
        self.decoded = 0
        self._counting = threading.Lock()  # several threads count
        self._held: dict[BlockNumber, _HeldBlock] = {}
        self._workers = Workers(threads or own_usable_cores(), "stream")

    def hold(self, numbers: Sequence[BlockNumber], block: Callable[[BlockNumber], Block]) -> None:
        """Drops all blocks but these, and begins to decode the new ones, in order.

        Args:
            numbers: the first SLOTS of them are held.
            block: gives the block of a number.
        """
        wanted = list(numbers)[:SLOTS]
        for number in [held for held in self._held if held not in wanted]:
            self._release(self._held.pop(number))
        used = {held.slot for held in self._held.values()}
        free = [slot for slot in range(SLOTS) if slot not in used]
        for number in wanted:
            if number not in self._held:
                self._held[number] = self._begin(block(number), free.pop(0))

    def rows_of(self, first_B: np.ndarray, last_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where windows of the frames first .. last lie.

        Waits until the blocks that have them are decoded. Raises what decoding them raised.

        Returns:
            row of the first frame, int64 (B,), and whether a held block has the window, bool (B,).
        """
        row_B = np.zeros(len(first_B), np.int64)
        found_B = np.zeros(len(first_B), bool)
        for held in list(self._held.values()):
            if found_B.all():
                break  # other blocks may still be decoded
            piece_B = held.piece_of(first_B)
            # piece -1 reads the last piece's end here; the second condition rules it out
            inside_B = ~found_B & (piece_B >= 0) & (last_B < held.stops[piece_B])
            if inside_B.any():
                held.wait()
                held_row_B = held.rows[piece_B] + first_B - held.starts[piece_B]
                row_B[inside_B] = held_row_B[inside_B]
                found_B |= inside_B
        return row_B, found_B

    def wait(self) -> None:
        """Waits until all blocks that are held are decoded."""
        for held in list(self._held.values()):
            held.wait()

    def close(self) -> None:
        """Ends decoding; the frames are gone."""
        self._workers.close()
        self._held.clear()
        self.frames = {}

    def _begin(self, block: Block, slot: int) -> _HeldBlock:
        if block.num_rows > self._rows:
            raise ValueError(
                f"the block has {block.num_rows} frames; there is room for {self._rows}"
            )
        # in the dataset's order: neighbouring pieces share row groups and videos
        order = np.argsort(block.starts)
        starts = block.starts[order]
        stops = block.stops[order]
        rows = (slot * self._rows + block.rows)[order]
        begun = _HeldBlock(slot, starts, stops, rows)
        for start, stop, row in zip(starts.tolist(), stops.tolist(), rows.tolist(), strict=True):
            source = self._source_of(start, stop)
            for camera in self.frames:
                if source is None:
                    task = self._workers.submit(self._decode, camera, start, stop, row)
                else:
                    held, piece = source
                    ready = held.tasks[piece, camera]
                    first = int(held.rows[piece]) + start - int(held.starts[piece])
                    task = self._workers.submit(self._copy, camera, start, stop, row, first, ready)
                    held.readers.append(task)
                begun.tasks[begun.piece_at(start), camera] = task
        return begun

    def _source_of(self, start: int, stop: int) -> tuple[_HeldBlock, int] | None:
        """A held block and its piece that has all frames from `start` to before `stop`."""
        for held in self._held.values():
            piece = held.piece_at(start)
            if piece >= 0 and stop <= held.stops[piece]:
                return held, piece
        return None

    def _copy(
        self, camera: str, start: int, stop: int, row: int, source_row: int, ready: Future[None]
    ) -> None:
        """Copies the frames from another slot once they are there; decodes them if they failed."""
        # it was submitted earlier, so a worker has it already, unless all of them are ending
        while not ready.done():
            if self._workers.stopping:
                return
            wait([ready], timeout=0.1)
        if ready.cancelled() or ready.exception() is not None:
            self._decode(camera, start, stop, row)
            return
        frames = self.frames[camera]
        count = stop - start
        frames[row : row + count] = frames[source_row : source_row + count]

    def _decode(self, camera: str, start: int, stop: int, row: int) -> None:
        # a piece lies in one episode, so its frames follow each other in the dataset too
        first = int(self._dataset_frame[start])
        out = self.frames[camera][row : row + stop - start]
        decode(self._dataset, camera, first, out, stopped=lambda: self._workers.stopping)
        if camera == next(iter(self.frames)):
            with self._counting:
                self.decoded += stop - start

    def _release(self, held: _HeldBlock) -> None:
        """Threads that still write into the slot must be done before others use it."""
        running = [task for task in held.tasks.values() if not task.cancel()]
        wait([*running, *held.readers])


@dataclass
class _HeldBlock:
    """A block in a slot.

    Attributes:
        starts, stops, rows: int64 (P,), its pieces by their first frame, and where they lie.
        tasks: (piece, camera) -> what fills it.
        readers: tasks of other blocks that copy from here.
    """

    slot: int
    starts: np.ndarray
    stops: np.ndarray
    rows: np.ndarray
    tasks: dict[tuple[int, str], Future[None]] = field(default_factory=dict)
    readers: list[Future[None]] = field(default_factory=list)
    complete: bool = False

    def piece_of(self, frame_B: np.ndarray) -> np.ndarray:
        """The piece that each frame might be in; -1 if it is before all of them."""
        return np.searchsorted(self.starts, frame_B, side="right") - 1

    def piece_at(self, frame: int) -> int:
        """The piece that one frame might be in; -1 if it is before all of them."""
        return int(np.searchsorted(self.starts, frame, side="right")) - 1

    def wait(self) -> None:
        # once only: asking a hundred futures at every batch would take its time
        if self.complete:
            return
        for task in self.tasks.values():
            task.result()
        self.complete = True


def decode(
    dataset: EpisodeDataset,
    camera: str,
    first: int,
    out: np.ndarray,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Decodes the dataset's frames from `first` on into `out`, uint8 (n, H, W, 3).

    Args:
        stopped: called every few frames; if it returns True, the rest is left as it is.

    Raises:
        DataError: an image is damaged, missing, or of another size.
    """
    stream = iter(dataset.images(camera, first, first + len(out)))
    for done in range(0, len(out), PIECE_FRAMES):
        if stopped():
            return
        fill(stream, dataset, camera, first + done, out[done : done + PIECE_FRAMES])


def own_usable_cores() -> int:
    """Cores for this process: its part, among the processes of a launcher on this machine."""
    launched = os.environ.get("LOCAL_WORLD_SIZE", "1")
    processes = int(launched) if launched.isdigit() else 1
    return max(1, usable_cores() // max(1, processes))


class OnDemandFrames:
    """Frames of single windows, decoded when they are read, and kept as long as there is room.

    What does not fit is decoded each time again. Nothing is thrown out: windows that are read again
    and again (those of validation) gain from the room there is, which replacing them in turn would
    undo.

    Args:
        dataset: where the images are.
        cameras: which of its cameras.
        room: bytes to keep.
    """

    def __init__(self, dataset: EpisodeDataset, cameras: Sequence[str], *, room: int) -> None:
        self._dataset = dataset
        self._cameras = list(cameras)
        self._left = room
        self._kept: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def read(self, ranges: Iterable[tuple[int, int]]) -> list[dict[str, np.ndarray]]:
        """For each (first frame of the dataset, number of frames): camera -> uint8 (n, H, W, 3)."""
        wanted = list(ranges)
        missing = [item for item in dict.fromkeys(wanted) if item not in self._kept]
        found: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        if missing:
            with ThreadPoolExecutor(own_usable_cores(), thread_name_prefix="decode") as pool:
                found = dict(zip(missing, pool.map(self._read, missing), strict=True))
        with self._lock:
            for item, images in found.items():
                self._keep(item, images)
        return [self._kept.get(item) or found[item] for item in wanted]

    def _keep(self, item: tuple[int, int], images: dict[str, np.ndarray]) -> None:
        size = sum(image.nbytes for image in images.values())
        if size <= self._left and item not in self._kept:
            self._kept[item] = images
            self._left -= size

    def _read(self, item: tuple[int, int]) -> dict[str, np.ndarray]:
        first, count = item
        images = {}
        for camera in self._cameras:
            size = self._dataset.spec.cameras[camera]
            images[camera] = np.empty((count, *size, 3), np.uint8)
            decode(self._dataset, camera, first, images[camera])
        return images


__all__ = ["SLOTS", "BlockFrames", "OnDemandFrames", "decode", "own_usable_cores"]
