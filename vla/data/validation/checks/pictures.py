"""Checks of images: every one is decoded, and its content looked at.

H and W: image height and width.
"""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vla.common.cores import usable_cores
from vla.data.errors import DataError
from vla.data.loading.decoding import Block, plan_blocks
from vla.data.reader import EpisodeDataset
from vla.data.storage.image_codec import as_frame
from vla.data.validation.examined import Examined
from vla.data.validation.registry import Finding, check

_FROZEN = 10
"""A camera that shows one picture for this many steps, a whole episode long, is taken for
frozen."""


@check(
    "images",
    "every image and video: whether it decodes, its size, that there is one for each frame",
    deep=True,
)
def images(examined: Examined) -> Iterator[Finding]:
    dataset = examined.dataset
    if dataset is None:
        return
    table = dataset.episodes if _has_episodes(dataset) else dataset.reader.episodes
    ranges = [
        (int(a), int(a + n)) for a, n in zip(table["first_frame"], table["length"], strict=True)
    ]
    total = sum(stop - start for start, stop in ranges) * len(dataset.spec.cameras)
    scan = _Scan(dataset, ranges, None if examined.progress is None else _teller(examined, total))
    for camera in dataset.spec.cameras:
        yield from scan.camera(camera)


def _has_episodes(dataset: EpisodeDataset) -> bool:
    try:
        return dataset.episodes is not None
    except DataError:
        return False


def _teller(examined: Examined, total: int) -> Callable[[int], None]:
    lock, done = threading.Lock(), 0

    def tell(frames: int) -> None:
        nonlocal done
        with lock:
            done += frames
            if examined.progress is not None:
                examined.progress(done, total)

    return tell


class _Scan:
    """Decodes whole cameras, block by block in threads; where a block fails, episode by episode."""

    def __init__(
        self,
        dataset: EpisodeDataset,
        ranges: list[tuple[int, int]],
        tell: Callable[[int], None] | None,
    ) -> None:
        self.dataset, self.ranges, self.tell = dataset, ranges, tell
        self.starts = np.array([start for start, _ in ranges])

    def camera(self, name: str) -> Iterator[Finding]:
        h, w = self.dataset.spec.cameras[name]
        blocks = plan_blocks(self.ranges, h * w * 3)
        sums = np.zeros(sum(stop - start for start, stop in self.ranges), np.uint32)
        with ThreadPoolExecutor(usable_cores()) as pool:
            for found in pool.map(lambda block: self._block(name, block, sums), blocks):
                yield from found
        yield from self._frozen(name, sums)

    def _block(self, name: str, block: Block, sums: np.ndarray) -> list[Finding]:
        try:
            self._decode(name, block.start, block.stop, sums)
            return []
        except DataError as error:
            first = str(error)
        found: dict[str, list[int]] = defaultdict(list)
        for episode, (start, stop) in enumerate(self.ranges):
            if start < block.stop and stop > block.start:
                try:
                    self._decode(name, max(start, block.start), min(stop, block.stop), sums)
                except DataError as error:
                    found[str(error)].append(episode)
        if not found:  # what goes wrong only together is wrong, too
            found[first] = [int(np.searchsorted(self.starts, block.start, side="right")) - 1]
        return [
            Finding(
                "images",
                "error",
                f"episode {episodes[0]}, camera {name}",
                _with_others(message, episodes[1:]),
            )
            for message, episodes in found.items()
        ]

    def _decode(self, name: str, start: int, stop: int, sums: np.ndarray) -> None:
        """Decodes frames; raises DataError naming the first that is damaged, missing or of another
        size."""
        size, expected = self.dataset.spec.cameras[name], start
        for frame, picture in self.dataset.images(name, start, stop):
            where = f"{self.dataset.root}: frame {frame}: camera {name!r}"
            if frame != expected:
                raise DataError(f"{where} follows frame {expected - 1}; restore the data")
            try:
                image = as_frame(picture)
            except DataError as error:
                raise DataError(f"{where} is {error}") from error
            if image.shape != (*size, 3):
                raise DataError(
                    f"{where} is {image.shape}, the spec says {size[0]}x{size[1]}; correct the spec"
                )
            sums[frame] = zlib.crc32(np.ascontiguousarray(image).data)
            expected += 1
            if self.tell is not None:
                self.tell(1)
        if expected != stop:
            raise DataError(
                f"{self.dataset.root}: camera {name!r} ends at frame {expected} of {stop}; "
                "restore the data"
            )

    def _frozen(self, name: str, sums: np.ndarray) -> Iterator[Finding]:
        frozen = [
            episode
            for episode, (start, stop) in enumerate(self.ranges)
            if stop - start >= _FROZEN and sums[start] and (sums[start:stop] == sums[start]).all()
        ]
        if frozen:
            message = _with_others(
                f"camera {name!r} shows one picture for the whole episode: it stood still",
                frozen[1:],
            )
            yield Finding("images", "warning", f"episode {frozen[0]}, camera {name}", message)


def _with_others(message: str, episodes: list[int]) -> str:
    if not episodes:
        return message
    listed = ", ".join(map(str, episodes[:5])) + (", ..." if len(episodes) > 5 else "")
    return f"{message} (as in episodes {listed})"
