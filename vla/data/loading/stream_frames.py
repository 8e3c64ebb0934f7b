"""Frames of the present block of a stream, and of the next ones, which threads decode meanwhile.

N: frames of the chosen episodes, numbered side by side, R: rows that a block has room for, H and W: image height and width.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from vla.common.cores import usable_cores
from vla.data.loading.daemon_threads import Workers
from vla.data.loading.decoding import fill
from vla.data.loading.stream_order import Block, BlockNumber
from vla.data.reader import EpisodeDataset

SLOTS = 3
"""Blocks that are held: the present one, the next one, and the one that is decoded."""
_PIECE = 64


class BlockFrames:
    """Room for a few blocks of decoded frames, filled in the background and used again and again.

    Args:
        dataset: where the images are.
        cameras: which of its cameras.
        rows: R.
        dataset_frame: (N,), the dataset's number of each frame.
        threads: how many decode at once; by default one per core, shared among the processes of this machine.

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
        self._dataset, self._rows, self._dataset_frame = dataset, rows, dataset_frame
        self.frames = {
            c: np.empty((SLOTS * rows, *dataset.spec.cameras[c], 3), np.uint8) for c in cameras
        }
        self.decoded = 0
        self._counting = threading.Lock()
        self._held: dict[BlockNumber, _Held] = {}
        self._workers = Workers(threads or own_usable_cores(), "stream")

    def hold(self, numbers: Sequence[BlockNumber], block: Callable[[BlockNumber], Block]) -> None:
        """Lets go of all blocks but these, at most SLOTS, and begins to decode those of them that are not here, in order."""
        numbers = list(numbers)[:SLOTS]
        for number in [n for n in self._held if n not in numbers]:
            self._release(self._held.pop(number))
        free = [
            slot for slot in range(SLOTS) if slot not in {held.slot for held in self._held.values()}
        ]
        for number in numbers:
            if number not in self._held:
                self._held[number] = self._begin(block(number), free.pop(0))

    def rows_of(self, first_B: np.ndarray, last_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where windows of the frames first .. last lie: (row of the first frame (B,), whether a held block has the window (B,)).

        Waits until the blocks that have them are decoded. Raises what decoding them raised.
        """
        row_B, found_B = np.zeros(len(first_B), np.int64), np.zeros(len(first_B), bool)
        for held in list(self._held.values()):
            if found_B.all():
                break
            piece_B = held.piece_of(first_B)
            inside_B = ~found_B & (piece_B >= 0) & (last_B < held.stops[piece_B])
            if inside_B.any():
                held.wait()
                row_B[inside_B] = (held.rows[piece_B] + first_B - held.starts[piece_B])[inside_B]
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

    def _begin(self, block: Block, slot: int) -> _Held:
        if block.num_rows > self._rows:
            raise ValueError(
                f"the block has {block.num_rows} frames; there is room for {self._rows}"
            )
        rows, order = slot * self._rows + block.rows, np.argsort(block.starts)
        tasks = [
            self._workers.submit(self._decode, camera, int(start), int(stop), int(row))
            for start, stop, row in zip(
                block.starts[order], block.stops[order], rows[order], strict=True
            )
            for camera in self.frames
        ]
        return _Held(slot, block.starts[order], block.stops[order], rows[order], tasks)

    def _decode(self, camera: str, start: int, stop: int, row: int) -> None:
        first, out = int(self._dataset_frame[start]), self.frames[camera][row : row + stop - start]
        decode(self._dataset, camera, first, out, stopped=lambda: self._workers.stopping)
        if camera == next(iter(self.frames)):
            with self._counting:
                self.decoded += stop - start

    def _release(self, held: _Held) -> None:
        """Threads that still write into the slot must be done before others use it."""
        wait([task for task in held.tasks if not task.cancel()])


@dataclass(frozen=True)
class _Held:
    """A block in a slot: its pieces, sorted by their first frame, and who decodes them."""

    slot: int
    starts: np.ndarray
    stops: np.ndarray
    rows: np.ndarray
    tasks: list[Future[None]]

    def piece_of(self, frame_B: np.ndarray) -> np.ndarray:
        """The piece that each frame might be in; -1 where it is before all of them."""
        return np.searchsorted(self.starts, frame_B, side="right") - 1

    def wait(self) -> None:
        for task in self.tasks:
            task.result()
        self.tasks.clear()


def decode(
    dataset: EpisodeDataset,
    camera: str,
    first: int,
    out: np.ndarray,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Decodes the dataset's frames from `first` on into `out`, uint8 (n, H, W, 3).

    Args:
        stopped: asked now and then; where it is True, the rest is left as it is.

    Raises:
        DataError: an image is damaged, missing, or of another size.
    """
    stream = iter(dataset.images(camera, first, first + len(out)))
    for done in range(0, len(out), _PIECE):
        if stopped():
            return
        fill(stream, dataset, camera, first + done, out[done : done + _PIECE])


def own_usable_cores() -> int:
    """Cores for this process: of those there are, its part among the processes that a launcher started here."""
    launched = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, usable_cores() // max(1, int(launched) if launched.isdigit() else 1))


class LooseFrames:
    """Frames of single windows, for what asks without order: decoded on demand, and kept as long as there is room.

    What does not fit is decoded each time anew; nothing is thrown out, so that windows that are asked for again and again
    (those of validation) gain from the room there is.

    Args:
        dataset: where the images are.
        cameras: which of its cameras.
        room: bytes to keep.
    """

    def __init__(self, dataset: EpisodeDataset, cameras: Sequence[str], *, room: int) -> None:
        self._dataset, self._cameras, self._left = dataset, list(cameras), room
        self._kept: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def spans(self, spans: Iterable[tuple[int, int]]) -> list[dict[str, np.ndarray]]:
        """For each (first frame of the dataset, number of frames): camera -> uint8 (n, H, W, 3)."""
        wanted = list(spans)
        missing = [span for span in dict.fromkeys(wanted) if span not in self._kept]
        found: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        if missing:
            with ThreadPoolExecutor(own_usable_cores(), thread_name_prefix="decode") as pool:
                found = dict(zip(missing, pool.map(self._read, missing), strict=True))
        with self._lock:
            for span, images in found.items():
                size = sum(image.nbytes for image in images.values())
                if size <= self._left and span not in self._kept:
                    self._kept[span] = images
                    self._left -= size
        return [self._kept.get(span) or found[span] for span in wanted]

    def _read(self, span: tuple[int, int]) -> dict[str, np.ndarray]:
        images = {
            c: np.empty((span[1], *self._dataset.spec.cameras[c], 3), np.uint8)
            for c in self._cameras
        }
        for camera, out in images.items():
            decode(self._dataset, camera, span[0], out)
        return images
