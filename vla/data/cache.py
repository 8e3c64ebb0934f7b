"""Every frame decoded once into uint8 arrays, in memory or memory-mapped on disk.

R: rows of the cache, H and W: image height and width.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from vla.data.atomic import sync_folder, write_json
from vla.data.episode import decode_png
from vla.data.errors import DataError
from vla.data.format import Picture
from vla.data.reader import EpisodeDataset

Storage = Literal["ram", "disk"]
_BLOCK = 256


class FrameCache:
    """Decoded frames of a dataset.

    On disk the cache holds the whole dataset, so that several selections of episodes share it; in memory it
    holds the given episodes only. A cache on disk carries a fingerprint of the dataset and a checksum of its
    own content, and is built anew where they differ. It appears by one rename: a killed build leaves none.

    Args:
        dataset: where the images are.
        storage: "ram" or "disk".
        episodes: which episodes to decode (memory only); all by default.
        cameras: which cameras; all by default.
        folder: where caches on disk lie; `.cache` in the dataset's folder by default.
        progress: called with (frames done, frames in all) while decoding.

    Attributes:
        frames: camera -> uint8 (R, H, W, 3).

    Raises:
        DataError: an image is damaged or of another size than the spec's, or memory does not hold the frames.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        storage: Storage = "ram",
        *,
        episodes: Sequence[int] | None = None,
        cameras: Sequence[str] | None = None,
        folder: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if storage not in ("ram", "disk"):
            raise ValueError(f"cache is {storage!r}; expected 'ram' or 'disk'")
        names = list(dataset.spec.cameras) if cameras is None else list(cameras)
        ranges = _ranges(dataset, None if storage == "disk" else episodes)
        self._first_row = _first_rows(dataset, ranges)
        self.frames: dict[str, np.ndarray] = {}
        if storage == "ram":
            rows = sum(stop - start for start, stop in ranges)
            _check_memory(dataset, names, rows)
            for camera in names:
                self.frames[camera] = np.empty((rows, *dataset.spec.cameras[camera], 3), np.uint8)
                _decode(dataset, camera, ranges, self.frames[camera], progress)
        else:
            base = dataset.root / ".cache" if folder is None else Path(folder)
            for camera in names:
                self.frames[camera] = _disk_frames(dataset, camera, base, progress)

    def first_row(self, episode: int) -> int:
        """The row of the episode's first frame. Raises KeyError where the episode was not decoded."""
        return self._first_row[episode]


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
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fills `out`, decoding with all cores: PIL lets go of the interpreter lock while it decodes."""
    size = out.shape[1:]

    def decode(item: tuple[int, tuple[int, Picture]]) -> None:
        row, (frame, picture) = item
        try:
            image = decode_png(picture) if isinstance(picture, bytes) else picture
        except DataError as error:
            raise DataError(f"{dataset.root}: frame {frame}, camera {camera!r}: {error}") from error
        if image.shape != size:
            raise DataError(
                f"{dataset.root}: frame {frame}: camera {camera!r} is {image.shape[0]}x{image.shape[1]}, "
                f"the spec says {size[0]}x{size[1]}; correct the spec or drop the episode"
            )
        out[row] = image

    images = enumerate(_stream(dataset, camera, ranges))
    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while block := list(islice(images, _BLOCK)):
            list(pool.map(decode, block))
            done += len(block)
            if progress is not None:
                progress(done, len(out))
    if done != len(out):
        raise DataError(
            f"{dataset.root}: camera {camera!r} has {done} frames, expected {len(out)}; restore the data folder"
        )


def _stream(dataset: EpisodeDataset, camera: str, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, Picture]]:
    """The frames of all ranges; neighbouring ranges are read in one go."""
    joined: list[list[int]] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    for start, stop in joined:
        yield from dataset.images(camera, start, stop)


def _disk_frames(
    dataset: EpisodeDataset, camera: str, base: Path, progress: Callable[[int, int], None] | None
) -> np.ndarray:
    """The memory-mapped frames of one camera, decoded first where there is no cache of this very dataset."""
    shape = (dataset.num_frames, *dataset.spec.cameras[camera], 3)
    key: dict[str, object] = {"camera": camera, "shape": list(shape), "dataset": dataset.fingerprint()}
    name = hashlib.sha256(camera.encode()).hexdigest()[:12]
    folder = base / f"frames-{name}"
    if not _fresh(folder, key):
        base.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix="building-", dir=base))
        try:
            out = np.lib.format.open_memmap(building / "frames.npy", mode="w+", dtype=np.uint8, shape=shape)
            _decode(dataset, camera, _ranges(dataset, None), out, progress)
            out.flush()
            write_json(building / "key.json", key | {"checksum": _checksum(building / "frames.npy")})
            _install(building, folder, key)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    return np.asarray(frames)


def _fresh(folder: Path, key: dict[str, object]) -> bool:
    try:
        stored = json.loads((folder / "key.json").read_text())
        return bool(stored == key | {"checksum": _checksum(folder / "frames.npy")})
    except (OSError, ValueError):
        return False


def _checksum(path: Path) -> str:
    """Of the size and of 64 pieces spread over the file: finds truncation and foreign content in milliseconds."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for place in np.linspace(0, max(0, size - 4096), 64).astype(int):
            file.seek(int(place))
            digest.update(file.read(4096))
    return digest.hexdigest()


def _install(building: Path, folder: Path, key: dict[str, object]) -> None:
    """Puts a finished cache in its place. Of two processes that build at once, the first to finish wins."""
    if _fresh(folder, key):
        return
    stale = building.with_name(building.name + "-stale")
    if folder.exists():
        folder.rename(stale)
    try:
        building.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        if not _fresh(folder, key):
            raise
    shutil.rmtree(stale, ignore_errors=True)
