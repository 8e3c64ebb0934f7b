"""Every frame decoded once into uint8 arrays: in memory, in a mapped file, or in shared memory.

R: rows of the cache, H and W: image height and width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from vla.common.progress import ProgressCallback, ambient_progress
from vla.data.errors import DataError
from vla.data.loading.decoding import PIECE_FRAMES, Advance, Block, each_block, fill, plan_blocks
from vla.data.loading.frame_cache_file import CameraCache, check_space, free_bytes, make_base
from vla.data.reader import EpisodeDataset
from vla.data.storage.shared_memory import SharedFolder
from vla.types import ImageSize

Storage = Literal["ram", "disk", "shared"]
_STORAGES = ("ram", "disk", "shared")


class FrameCache:
    """Decoded frames of a dataset.

    In memory ("ram") the cache holds the given episodes only, and belongs to this process. On disk
    it holds the whole dataset, so that several selections of episodes, runs and processes share it:
    the first decodes, the others wait for it, and a killed build is resumed where it stopped.
    "shared" is the same in the system's shared memory, for the processes of one machine: one copy
    for all of them, gone when the last one ends.

    A kept cache carries a fingerprint of the dataset and checksums of its own content, and is built
    again if they differ; opening looks at samples, `damage` at every byte.

    Args:
        dataset: where the images are; if it is `resized`, the cache holds that size alone.
        storage: "ram", "disk" or "shared".
        episodes: which episodes to decode ("ram" only); all by default.
        cameras: which cameras; all by default.
        folder: where caches lie; by default `.cache` in the dataset's folder, or a folder beside
            the dataset's file. For "shared", a folder in memory other than the system's.
        progress: called with (frames done, frames in all) while decoding.
        threads: that decode; one per core by default.

    Attributes:
        frames: camera -> uint8 (R, H, W, 3).

    Raises:
        DataError: an image is damaged or of another size than the spec's, or memory or disk does
            not hold the frames.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        storage: Storage = "ram",
        *,
        episodes: Sequence[int] | None = None,
        cameras: Sequence[str] | None = None,
        folder: str | Path | None = None,
        progress: ProgressCallback | None = None,
        threads: int | None = None,
    ) -> None:
        if storage not in _STORAGES:
            expected = ", ".join(repr(name) for name in _STORAGES)
            raise ValueError(f"cache is {storage!r}; expected one of {expected}")
        progress = progress or ambient_progress()
        names = list(dataset.spec.cameras) if cameras is None else list(cameras)
        # a kept cache is of all episodes, whoever builds it: another run may choose others
        ranges = _ranges(dataset, episodes if storage == "ram" else None)
        self._first_row = _first_rows(dataset, ranges)
        self._kept: list[CameraCache] = []
        self.frames: dict[str, np.ndarray] = {}
        if storage == "ram":
            self._decode_all(dataset, names, ranges, progress, threads)
        else:
            self._open_kept(dataset, storage, names, folder)
            for cache in self._kept:
                self.frames[cache.camera] = cache.frames(progress, threads=threads)

    def _decode_all(
        self,
        dataset: EpisodeDataset,
        cameras: Sequence[str],
        ranges: list[tuple[int, int]],
        progress: ProgressCallback | None,
        threads: int | None,
    ) -> None:
        rows = sum(stop - start for start, stop in ranges)
        _check_memory(dataset, cameras, rows)
        for camera in cameras:
            frames = np.empty((rows, *dataset.spec.cameras[camera], 3), np.uint8)
            _decode(dataset, camera, ranges, frames, progress, threads)
            self.frames[camera] = frames

    def _open_kept(
        self,
        dataset: EpisodeDataset,
        storage: Storage,
        cameras: Sequence[str],
        folder: str | Path | None,
    ) -> None:
        """Finds the files of the cameras, and refuses before decoding what does not fit."""
        if storage == "shared":
            # held by this object: the system frees the memory when its last holder is gone
            self._shared = SharedFolder(_owner(dataset), None if folder is None else Path(folder))
            base = self._shared.path
            self._kept = [CameraCache(dataset, camera, base) for camera in cameras]
            # a folder in memory may promise more than there is
            free = min(free_bytes(base), psutil.virtual_memory().available)
            check_space(self._kept, base, free)
            return
        base, owner = _cache_folder(dataset, folder)
        make_base(base)
        self._kept = [CameraCache(dataset, camera, base, owner) for camera in cameras]
        check_space(self._kept, base)

    def first_row(self, episode: int) -> int:
        """The row of the episode's first frame. Raises KeyError if the episode was not decoded."""
        return self._first_row[episode]

    def damage(self) -> list[str]:
        """Reads every byte of a kept cache: a sentence for each damaged block; none in memory."""
        return [line for cache in self._kept for line in cache.damage()]


def kept_damage(dataset: EpisodeDataset, folder: str | Path | None = None) -> list[str]:
    """As `FrameCache.damage` for finished caches of this very dataset on disk; builds none."""
    base, owner = _cache_folder(dataset, folder)
    found = []
    for camera in dataset.spec.cameras:
        for sized in _kept_sizes(dataset, camera, base, owner):
            found += CameraCache(sized, camera, base, owner).damage()
    return found


def _kept_sizes(
    dataset: EpisodeDataset, camera: str, base: Path, owner: str
) -> Iterator[EpisodeDataset]:
    """The dataset at every size of which a finished cache is kept."""
    whole = CameraCache(dataset, camera, base, owner).whole
    if (base / whole).exists():
        yield dataset
    for folder in sorted(base.glob(f"{whole}-*")):
        try:
            size = ImageSize.parse(folder.name.removeprefix(f"{whole}-"))
        except ValueError:
            continue  # one that is being built, or its lock
        if size[:2] != dataset.spec.cameras[camera]:
            yield dataset.resized({camera: size})


def _cache_folder(dataset: EpisodeDataset, folder: str | Path | None) -> tuple[Path, str]:
    """Where caches on disk lie, and what distinguishes this dataset's from others there."""
    if folder is not None:
        return Path(folder), _owner(dataset)
    # in its own folder it has no name, not even its path: a moved dataset takes its cache along
    root = dataset.root
    if root.is_dir():
        return root / ".cache", ""
    return root.with_name(root.name + ".cache"), ""


def _owner(dataset: EpisodeDataset) -> str:
    return hashlib.sha256(str(dataset.root.resolve()).encode()).hexdigest()[:16]


def _check_memory(dataset: EpisodeDataset, cameras: Sequence[str], rows: int) -> None:
    """Refuses before decoding what would be killed for lack of memory at its end."""
    sizes = [dataset.spec.cameras[camera] for camera in cameras]
    needed = sum(rows * height * width * 3 for height, width in sizes)
    available = psutil.virtual_memory().available
    if needed > available:
        raise DataError(
            f"{dataset.root}: {rows} decoded frames need {needed / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are free; use cache='disk', or fewer episodes"
        )


def _ranges(dataset: EpisodeDataset, episodes: Sequence[int] | None) -> list[tuple[int, int]]:
    """Frames [start, stop) of the chosen episodes, in order of the dataset."""
    # sorted: frames are decoded fastest in the dataset's order
    table = dataset.episodes
    chosen = range(len(table)) if episodes is None else sorted(set(episodes))
    starts = table["first_frame"].to_numpy()
    lengths = table["length"].to_numpy()
    return [(int(starts[e]), int(starts[e] + lengths[e])) for e in chosen]


def _first_rows(dataset: EpisodeDataset, ranges: list[tuple[int, int]]) -> dict[int, int]:
    """Episode -> the row of its first frame."""
    first_frames = dataset.episodes["first_frame"]
    episode_at = {int(start): episode for episode, start in enumerate(first_frames)}
    rows = {}
    row = 0
    for start, stop in ranges:
        rows[episode_at[start]] = row
        row += stop - start
    return rows


def _decode(
    dataset: EpisodeDataset,
    camera: str,
    ranges: list[tuple[int, int]],
    out: np.ndarray,
    progress: ProgressCallback | None,
    threads: int | None,
) -> None:
    """Fills `out` with the frames of all ranges."""

    def work(block: Block, advance: Advance) -> None:
        stream = iter(dataset.images(camera, block.start, block.stop))
        rows = out[block.row : block.row + len(block)]
        for done in range(0, len(block), PIECE_FRAMES):
            part = rows[done : done + PIECE_FRAMES]
            fill(stream, dataset, camera, block.start + done, part)
            advance(len(part))

    frame_bytes = int(np.prod(out.shape[1:]))
    each_block(work, plan_blocks(ranges, frame_bytes), threads=threads, progress=progress)


__all__ = ["FrameCache", "Storage", "kept_damage"]
