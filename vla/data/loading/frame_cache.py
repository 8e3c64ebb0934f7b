"""Every frame decoded once into uint8 arrays: in memory, memory-mapped on disk, or in memory that processes share.

R: rows of the cache, H and W: image height and width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.loading.decoding import Block, each_block, fill, plan_blocks
from vla.data.loading.frame_cache_file import CameraCache, check_space, free_bytes, make_base
from vla.data.reader import EpisodeDataset
from vla.data.storage.shared_memory import SharedFolder

Storage = Literal["ram", "disk", "shared"]
_STORAGES = ("ram", "disk", "shared")
_PIECE = 64


class FrameCache:
    """Decoded frames of a dataset.

    In memory ("ram") the cache holds the given episodes only, and belongs to this process. On disk it holds the whole
    dataset, so that several selections of episodes, runs and processes share it: the first decodes, the others wait for it,
    and a killed build is taken up where it stopped. "shared" is the same in the system's shared memory, for the processes
    of one machine: one copy for all of them, gone when the last one ends.

    A kept cache carries a fingerprint of the dataset and checksums of its own content, and is built anew where they differ;
    opening looks at samples, `damage` at every byte.

    Args:
        dataset: where the images are.
        storage: "ram", "disk" or "shared".
        episodes: which episodes to decode ("ram" only); all by default.
        cameras: which cameras; all by default.
        folder: where caches lie; by default `.cache` in the dataset's folder, or a folder beside the dataset's file. For
            "shared", a folder in memory other than the system's.
        progress: called with (frames done, frames in all) while decoding.
        threads: that decode; one per core by default.

    Attributes:
        frames: camera -> uint8 (R, H, W, 3).

    Raises:
        DataError: an image is damaged or of another size than the spec's, or memory or disk does not hold the frames.
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
            raise ValueError(
                f"cache is {storage!r}; expected one of {', '.join(map(repr, _STORAGES))}"
            )
        names = list(dataset.spec.cameras) if cameras is None else list(cameras)
        ranges = _ranges(dataset, episodes if storage == "ram" else None)
        self._first_row = _first_rows(dataset, ranges)
        self._kept: list[CameraCache] = []
        self.frames: dict[str, np.ndarray] = {}
        if storage == "ram":
            rows = sum(stop - start for start, stop in ranges)
            _check_memory(dataset, names, rows)
            for camera in names:
                self.frames[camera] = np.empty((rows, *dataset.spec.cameras[camera], 3), np.uint8)
                _decode(dataset, camera, ranges, self.frames[camera], progress, threads)
            return
        free = None
        if storage == "shared":
            self._shared = SharedFolder(_owner(dataset), None if folder is None else Path(folder))
            base = self._shared.path
            free = min(free_bytes(base), psutil.virtual_memory().available)
            self._kept = [CameraCache(dataset, camera, base) for camera in names]
        else:
            base, owner = _cache_folder(dataset, folder)
            make_base(base)
            self._kept = [CameraCache(dataset, camera, base, owner) for camera in names]
        check_space(self._kept, base, free)
        for cache in self._kept:
            self.frames[cache.camera] = cache.frames(progress, threads=threads)

    def first_row(self, episode: int) -> int:
        """The row of the episode's first frame. Raises KeyError where the episode was not decoded."""
        return self._first_row[episode]

    def damage(self) -> list[str]:
        """Reads every byte of a kept cache -> a sentence for each block that is not what was written; none in memory."""
        return [line for cache in self._kept for line in cache.damage()]


def kept_damage(dataset: EpisodeDataset, folder: str | Path | None = None) -> list[str]:
    """As `FrameCache.damage` for the caches on disk that are finished and of this very dataset; builds none."""
    base, owner = _cache_folder(dataset, folder)
    caches = [CameraCache(dataset, camera, base, owner) for camera in dataset.spec.cameras]
    return [line for cache in caches if cache.folder.exists() for line in cache.damage()]


def _cache_folder(dataset: EpisodeDataset, folder: str | Path | None) -> tuple[Path, str]:
    """-> where caches on disk lie, and what distinguishes this dataset's from others there."""
    if folder is not None:
        return Path(folder), _owner(dataset)
    # Not its path: a dataset that is moved takes its cache along.
    root = dataset.root
    return (root / ".cache" if root.is_dir() else root.with_name(root.name + ".cache")), ""


def _owner(dataset: EpisodeDataset) -> str:
    return hashlib.sha256(str(dataset.root.resolve()).encode()).hexdigest()[:16]


def _check_memory(dataset: EpisodeDataset, cameras: Sequence[str], rows: int) -> None:
    """Refuses before decoding what would be killed for lack of memory at its end."""
    needed = sum(rows * h * w * 3 for h, w in (dataset.spec.cameras[camera] for camera in cameras))
    available = psutil.virtual_memory().available
    if needed > available:
        raise DataError(
            f"{dataset.root}: {rows} decoded frames need {needed / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are free; use cache='disk', or fewer episodes"
        )


def _ranges(dataset: EpisodeDataset, episodes: Sequence[int] | None) -> list[tuple[int, int]]:
    """Frames [start, stop) of the chosen episodes, in order of the dataset."""
    table = dataset.episodes
    chosen = range(len(table)) if episodes is None else sorted(set(episodes))
    starts, lengths = table["first_frame"].to_numpy(), table["length"].to_numpy()
    return [(int(starts[e]), int(starts[e] + lengths[e])) for e in chosen]


def _first_rows(dataset: EpisodeDataset, ranges: list[tuple[int, int]]) -> dict[int, int]:
    episodes = {int(start): e for e, start in enumerate(dataset.episodes["first_frame"])}
    rows, row = {}, 0
    for start, stop in ranges:
        rows[episodes[start]] = row
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

    def work(block: Block, advance: Callable[[int], None]) -> None:
        stream = iter(dataset.images(camera, block.start, block.stop))
        for done in range(0, len(block), _PIECE):
            part = out[block.row + done : block.row + min(done + _PIECE, len(block))]
            fill(stream, dataset, camera, block.start + done, part)
            advance(len(part))

    each_block(
        work, plan_blocks(ranges, int(np.prod(out.shape[1:]))), threads=threads, progress=progress
    )
