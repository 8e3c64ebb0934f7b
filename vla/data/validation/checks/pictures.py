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
from vla.common.progress import ProgressCallback
from vla.common.registry import register
from vla.data.errors import DataError
from vla.data.loading.decoding import Block, plan_blocks
from vla.data.reader import EpisodeDataset
from vla.data.storage.image_codec import as_frame
from vla.data.validation.check import Finding, check
from vla.data.validation.examined import Examined

_FROZEN = 10
"""A camera that shows one image for this many steps, a whole episode long, is taken for frozen."""
_ONE_COLOUR = 3
"""What codecs make of one colour differs by no more."""


@register("checks", "images")
@check(
    "every image and video: whether it decodes, its size, that there is one for each frame",
    deep=True,
)
def images(examined: Examined) -> Iterator[Finding]:
    """Every image decodes and has the size of the spec; no camera shows one image all the time."""
    dataset = examined.dataset
    if dataset is None:
        return
    # the reader's own table if the full one needs numbers that are damaged
    table = dataset.episodes if _has_episodes(dataset) else dataset.reader.episodes
    starts = table["first_frame"].tolist()
    ranges = [(a, a + n) for a, n in zip(starts, table["length"].tolist(), strict=True)]
    advance = None
    if examined.progress is not None:
        total = sum(stop - start for start, stop in ranges) * len(dataset.spec.cameras)
        advance = _counter(examined.progress, total)
    scan = _Scan(dataset, ranges, advance)
    for camera in dataset.spec.cameras:
        yield from scan.camera(camera)


def _has_episodes(dataset: EpisodeDataset) -> bool:
    try:
        return dataset.episodes is not None
    except DataError:
        return False


def _counter(progress: ProgressCallback, total: int) -> Callable[[int], None]:
    """A function that counts frames on and reports their number; many threads may call it."""
    lock = threading.Lock()
    done = 0

    def advance(frames: int) -> None:
        nonlocal done
        with lock:
            done += frames
            progress(done, total)

    return advance


class _Scan:
    """Decodes whole cameras, block by block in threads; if a block fails, episode by episode."""

    def __init__(
        self,
        dataset: EpisodeDataset,
        ranges: list[tuple[int, int]],
        advance: Callable[[int], None] | None,
    ) -> None:
        self.dataset = dataset
        self.ranges = ranges
        self.advance = advance
        self.starts = np.array([start for start, _ in ranges])

    def camera(self, name: str) -> Iterator[Finding]:
        h, w = self.dataset.spec.cameras[name]
        blocks = plan_blocks(self.ranges, h * w * 3)
        # A CRC-32 per frame, to see which frames are the same: images would not fit into memory.
        frames = sum(stop - start for start, stop in self.ranges)
        sums = np.zeros(frames, np.uint32)
        self.blank = np.zeros(frames, bool)
        # threads: decoders let go of the interpreter lock, and blocks share no frame
        with ThreadPoolExecutor(usable_cores()) as pool:
            for found in pool.map(lambda block: self._block(name, block, sums), blocks):
                yield from found
        yield from self._frozen(name, sums)
        yield from self._blank(name)

    def _block(
        self,
        name: str,
        block: Block,
        sums: np.ndarray,
    ) -> list[Finding]:
        try:
            self._decode(name, block.start, block.stop, sums)
            return []
        except DataError as error:
            first = str(error)
        # One damaged file may hold many episodes: one finding for each message, not for each
        # episode.
        episodes_of: dict[str, list[int]] = defaultdict(list)
        for episode, (start, stop) in enumerate(self.ranges):
            if start >= block.stop or stop <= block.start:
                continue
            try:
                self._decode(name, max(start, block.start), min(stop, block.stop), sums)
            except DataError as error:
                episodes_of[str(error)].append(episode)
        if not episodes_of:  # what goes wrong only together is wrong, too
            episode = int(np.searchsorted(self.starts, block.start, side="right")) - 1
            episodes_of[first] = [episode]
        found = []
        for message, episodes in episodes_of.items():
            named = self._named(episodes)
            place = f"episode {named[0]}, camera {name}"
            found.append(Finding("images", "error", place, _with_others(message, named[1:])))
        return found

    def _named(self, episodes: list[int]) -> list[int]:
        """What the dataset itself calls them."""
        return self.dataset.episode_numbers[episodes].tolist()

    def _decode(
        self,
        name: str,
        start: int,
        stop: int,
        sums: np.ndarray,
    ) -> None:
        """Decodes frames; raises DataError naming the first that is damaged, missing or of another
        size."""
        size = self.dataset.spec.cameras[name]
        expected = start
        for frame, stored in self.dataset.images(name, start, stop):
            where = f"{self.dataset.root}: frame {frame}: camera {name!r}"
            if frame != expected:
                raise DataError(f"{where} follows frame {expected - 1}; restore the data")
            try:
                image = as_frame(stored, size)
            except DataError as error:
                raise DataError(f"{where} is {error}") from error
            if image.shape != (*size, 3):
                raise DataError(
                    f"{where} is {image.shape}, the spec says {size[0]}x{size[1]}; correct the spec"
                )
            sums[frame] = zlib.crc32(np.ascontiguousarray(image).data)
            self.blank[frame] = _is_blank(image)
            expected += 1
            if self.advance is not None:
                self.advance(1)
        if expected != stop:
            raise DataError(
                f"{self.dataset.root}: camera {name!r} ends at frame {expected} of {stop}; "
                "restore the data"
            )

    def _frozen(self, name: str, sums: np.ndarray) -> Iterator[Finding]:
        frozen = []
        for episode, (start, stop) in enumerate(self.ranges):
            # 0: not decoded; of one colour is said by itself
            if stop - start < _FROZEN or not sums[start] or self.blank[start]:
                continue
            if (sums[start:stop] == sums[start]).all():
                frozen.append(episode)
        if frozen:
            message = f"camera {name!r} shows one picture for the whole episode: it stood still"
            frozen = self._named(frozen)
            message = _with_others(message, frozen[1:])
            yield Finding("images", "warning", f"episode {frozen[0]}, camera {name}", message)

    def _blank(self, name: str) -> Iterator[Finding]:
        """Pictures of one colour: a lens cap, a cable that came off, a simulator without light."""
        episodes = [
            e for e, (start, stop) in enumerate(self.ranges) if self.blank[start:stop].any()
        ]
        if not episodes:
            return
        share = f"{int(self.blank.sum())} of {len(self.blank)} pictures"
        message = f"camera {name!r}: {share} are of one colour, such as black: it saw nothing"
        message = _with_others(message, episodes[1:])
        yield Finding("images", "warning", f"episode {episodes[0]}, camera {name}", message)


def _is_blank(image: np.ndarray) -> bool:
    """Whether a picture (H, W, 3) has one colour, but for what a codec makes of it."""
    # every eighth pixel first: nearly all pictures differ from blank ones there
    for pixels in (image[::8, ::8], image):
        spread = pixels.reshape(-1, 3).max(0).astype(int) - pixels.reshape(-1, 3).min(0)
        if spread.max() > _ONE_COLOUR:
            return False
    return True


def _with_others(message: str, episodes: list[int]) -> str:
    if not episodes:
        return message
    listed = ", ".join(map(str, episodes[:5]))
    if len(episodes) > 5:
        listed += ", ..."
    return f"{message} (as in episodes {listed})"
