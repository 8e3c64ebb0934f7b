"""Frames of a dataset decoded by threads, a block of neighbouring episodes at a time.

H and W: image height and width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from vla.common.cores import usable_cores
from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.format import Image
from vla.data.reader import EpisodeDataset
from vla.data.storage.image_files import decode_image

_BLOCK_BYTES = 16 * 2**20
_LONGEST = 512  # frames: an episode of very small images is not divided before
_MOST = 256  # frames: small images may stem from large ones, which take long to decode
PIECE_FRAMES = 64
"""Frames between two reports of progress, or looks at whether to stop."""
_REPORT_SECONDS = 0.25

Advance = Callable[[int], None]
"""Called with the number of frames that were decoded since the last call."""


@dataclass(frozen=True)
class Block:
    """Frames [start, stop) of a dataset, which go to the rows from `row` on of a cache."""

    row: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def plan_blocks(ranges: Sequence[tuple[int, int]], frame_bytes: int) -> list[Block]:
    """The blocks in which the frames of `ranges`, [start, stop) of episodes, are decoded.

    Whole episodes side by side make a block: videos are read fastest in their order, and parquet in
    row groups. Only very long episodes are divided.
    """
    wanted = min(_MOST, max(1, _BLOCK_BYTES // frame_bytes))
    longest = max(4 * wanted, _LONGEST)
    blocks: list[Block] = []
    row = 0
    for start, stop in ranges:
        for lower in range(start, stop, longest):
            upper = min(lower + longest, stop)
            last = blocks[-1] if blocks else None
            # joined only if the frames follow each other in the dataset: a block is one range of it
            if last is not None and last.stop == lower and upper - last.start <= wanted:
                blocks[-1] = Block(last.row, last.start, upper)
            else:
                blocks.append(Block(row, lower, upper))
            row += upper - lower
    return blocks


def fill(
    stream: Iterator[tuple[int, Image]],
    dataset: EpisodeDataset,
    camera: str,
    first: int,
    out: np.ndarray,
) -> None:
    """Decodes the next frames of `stream`, from `first` on, into `out`, uint8 (n, H, W, 3).

    Raises:
        DataError: an image is damaged, missing or of another size.
    """
    size = out.shape[1:]
    for row in range(len(out)):
        frame, picture = next(stream, (-1, b""))
        # a reader that skips a frame would shift all images after it, unseen
        if frame != first + row:
            found = "ends" if frame < 0 else f"goes on with frame {frame}"
            raise DataError(
                f"{dataset.root}: camera {camera!r} {found} where frame {first + row} is expected; "
                "restore the data folder"
            )
        try:
            # a file of another size is not decoded first
            size_HW = (size[0], size[1])
            image = decode_image(picture, size_HW) if isinstance(picture, bytes) else picture
        except DataError as error:
            raise DataError(f"{dataset.root}: frame {frame}, camera {camera!r}: {error}") from error
        if image.shape != size:
            found = f"{image.shape[0]}x{image.shape[1]}"
            raise DataError(
                f"{dataset.root}: frame {frame}: camera {camera!r} is {found}, the spec says "
                f"{size[0]}x{size[1]}; correct the spec or drop the episode"
            )
        out[row] = image


def each_block(
    work: Callable[[Block, Advance], None],
    blocks: Sequence[Block],
    *,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Calls `work(block, advance)` for all blocks, in threads.

    `work` calls `advance(frames)` as it goes on.

    Args:
        threads: how many; one per core by default. Decoders let go of the interpreter lock while
            they work.
        progress: called in the caller's thread.

    Raises:
        whatever `work` raises first; the other threads end at their next `advance`.
    """
    total = sum(len(block) for block in blocks)
    lock = threading.Lock()
    stop = threading.Event()
    done = 0
    reported = 0

    def advance(frames: int) -> None:
        nonlocal done
        if stop.is_set():
            raise _StoppedError
        with lock:
            done += frames

    pool = ThreadPoolExecutor(threads or usable_cores(), thread_name_prefix="decode")
    try:
        pending = {pool.submit(work, block, advance) for block in blocks}
        while pending:
            # the timeout is for `progress` alone, which no thread but the caller's may call
            finished, pending = wait(pending, timeout=_REPORT_SECONDS, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
            if progress is not None and done > reported:
                reported = done
                progress(reported, total)
    finally:
        # also on an interrupt: without it the program would wait until everything is decoded
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


class _StoppedError(Exception):
    """Another block failed, or the caller was interrupted."""


__all__ = ["Advance", "Block", "each_block", "fill", "plan_blocks"]
