"""Episodes of datasets written one after the other into a new one: the loop behind convert, merge,
split, filter and label.

Which episodes come in which order is fixed beforehand, so the number of episodes on disk says where
a run that was killed stopped: the same call goes on there, and ends with the very dataset of a run
without interruption. What the dataset is made of lies in its metadata; a call with other sources or
options is refused.

L: steps of an episode, H and W: image height and width.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla.common.cores import usable_cores
from vla.common.folder_lock import refuse_if_in_use
from vla.common.progress import ProgressCallback
from vla.common.renamed import former_attributes
from vla.data.episode import Episode, check_episode
from vla.data.errors import DataError
from vla.data.format import Image
from vla.data.reader import EpisodeDataset
from vla.data.storage.image_codec import as_frame, as_png
from vla.data.storage.video import VideoConfig
from vla.data.tools.output import RECIPE, check_space, committed_episodes
from vla.data.tools.plan import Plan, provenance, recipe
from vla.data.writer import DatasetWriter

# A commit costs about one write of the newest file, whatever it adds; what is not committed is done
# again after a kill.
EPISODES_PER_COMMIT = 32
BYTES_PER_COMMIT = 16 * 2**20
SECONDS_PER_COMMIT = 10.0


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        root: folder of the new dataset.
        episodes, frames: what it holds.
        resumed: episodes that an earlier, interrupted call had written.
        notes: what the user should know.
    """

    root: Path
    episodes: int
    frames: int
    resumed: int
    notes: tuple[str, ...]


def write_derived(
    plan: Plan,
    dst: str | Path,
    *,
    video: VideoConfig | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Converted:
    """Writes the dataset `dst`, or what is left to write of it.

    Args:
        video: a VideoConfig stores cameras as videos; None as PNG.
        jobs: threads that decode and encode images; one per core by default.
        progress: called from several threads.

    Raises:
        DataError: `dst` holds something else, the disk is too small,
            or an episode of a source is damaged: the episodes before it are kept.
        FolderInUseError: another process writes there.
    """
    dst = Path(dst)
    refuse_if_in_use(dst)
    for number, dataset in enumerate(plan.sources):
        # now, not after hours
        dataset.check_numbers([index for source, index in plan.episodes if source == number])
    made = recipe(plan, video)
    done = committed_episodes(plan, dst, made)
    if done < len(plan.episodes):
        check_space(plan, dst, plan.episodes[done:], video is not None)
        _write(plan, dst, made, video, jobs or usable_cores(), progress)
    lengths = EpisodeDataset(dst, format="lerobot").episodes["length"]
    return Converted(dst, len(lengths), int(lengths.sum()), done, tuple(plan.notes))


def _write(
    plan: Plan,
    dst: Path,
    made: dict[str, Any],
    video: VideoConfig | None,
    jobs: int,
    progress: ProgressCallback | None,
) -> None:
    sources = [_plain(dataset.metadata) for dataset in plan.sources]
    metadata = {RECIPE: made, "source": sources}
    with DatasetWriter(dst, plan.spec, metadata=metadata, resume=True, video=video) as writer:
        done = plan.episodes[: writer.num_episodes]
        todo = plan.episodes[writer.num_episodes :]
        cameras = len(plan.spec.cameras)
        meter = _Meter(progress, cameras, sum(plan.length(place) for place in plan.episodes))
        meter.add(sum(plan.length(place) for place in done) * max(1, cameras))
        group: list[Episode] = []
        size = 0
        since = time.monotonic()
        try:
            for episode in _prepared(plan, todo, video is not None, jobs, meter):
                group.append(episode)
                size += _bytes(episode)
                late = time.monotonic() - since > SECONDS_PER_COMMIT
                if late or len(group) == EPISODES_PER_COMMIT or size > BYTES_PER_COMMIT:
                    # emptied first: if writing fails, the handler below must not write it again
                    waiting = group
                    group = []
                    size = 0
                    writer.add_episodes(waiting)
                    since = time.monotonic()
        except DataError:
            writer.add_episodes(group)  # those before the damaged one
            raise
        writer.add_episodes(group)


def _plain(metadata: Any) -> Any:
    """What strict JSON can hold: NaN becomes null, and what is no JSON type its text."""
    return json.loads(json.dumps(metadata, default=str), parse_constant=lambda _: None)


def _bytes(episode: Episode) -> int:
    """Bytes of the episode's images, which are most of it."""
    total = 0
    for images in episode.images.values():
        total += images.nbytes if isinstance(images, np.ndarray) else sum(map(len, images))
    return total


def _prepared(
    plan: Plan,
    todo: Sequence[tuple[int, int]],
    decoded: bool,
    jobs: int,
    meter: _Meter,
) -> Iterator[Episode]:
    """The new dataset's episodes in order; threads decode and encode a few of them ahead."""
    for dataset in plan.sources:
        # read once, before threads ask for them
        _ = dataset.episodes
        _ = dataset.unchecked_columns
    # As many episodes as keep all threads busy: each that waits is in memory.
    ahead = 1 + -(-jobs // max(1, len(plan.spec.cameras)))
    pool = ThreadPoolExecutor(jobs)
    waiting: deque[tuple[tuple[int, int], dict[str, Future[Any]]]] = deque()
    try:
        for place in todo:
            cameras = {}
            for camera in plan.spec.cameras:
                cameras[camera] = pool.submit(_images, plan, place, camera, decoded, meter)
            waiting.append((place, cameras))
            if len(waiting) > ahead:
                yield _finished(plan, *waiting.popleft(), meter)
        while waiting:
            yield _finished(plan, *waiting.popleft(), meter)
    finally:
        pool.shutdown(cancel_futures=True)


def _images(
    plan: Plan,
    place: tuple[int, int],
    camera: str,
    decoded: bool,
    meter: _Meter,
) -> np.ndarray | list[bytes]:
    """One camera's images of an episode: PNG files, or if `decoded`, uint8 (L, H, W, 3)."""
    source, index = place
    dataset = plan.sources[source]
    row = dataset.episodes.iloc[index]
    start = int(row["first_frame"])
    length = int(row["length"])
    chosen = np.arange(length) if plan.frames is None else plan.frames(length)
    wanted = set(chosen.tolist())
    made: dict[int, Any] = {}
    # All frames are read, also of those that are left out: videos decode in order anyhow.
    for frame, image in dataset.images(camera, start, start + length):
        step = frame - start
        if step in wanted:
            made[step] = _as_stored(image, decoded, dataset, camera, step, index)
        meter.add(1)
    missing = wanted - set(made)
    if missing:
        raise DataError(
            f"{dataset.root}: episode {dataset.episode_numbers[index]}: camera {camera!r} has no "
            f"frame {min(missing)} of {length}; restore the source or leave the episode out"
        )
    images = [made[step] for step in chosen.tolist()]
    return np.stack(images) if decoded else images


def _as_stored(
    image: Image, decoded: bool, dataset: EpisodeDataset, camera: str, step: int, index: int
) -> Any:
    number = dataset.episode_numbers[index]
    where = f"{dataset.root}: episode {number}: camera {camera!r}: step {step}"
    try:
        if not decoded:
            return as_png(image)
        frame = as_frame(image)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if frame.shape[:2] != dataset.spec.cameras[camera]:
        h, w = dataset.spec.cameras[camera]
        raise DataError(
            f"{where}: is {frame.shape[0]}x{frame.shape[1]}, the spec says {h}x{w}; leave the "
            "episode out"
        )
    return frame


def _finished(
    plan: Plan,
    place: tuple[int, int],
    cameras: dict[str, Future[Any]],
    meter: _Meter,
) -> Episode:
    """The episode with its images, changed, checked, and with its origin."""
    source, index = place
    dataset = plan.sources[source]
    episode = dataset.episode(index, images=False)
    if plan.change is not None:
        episode = plan.change(episode, source, index)
    images = {camera: future.result() for camera, future in cameras.items()}
    left_out = plan.extras_left_out().get(dataset.name, [])
    extras = {name: values for name, values in episode.extras.items() if name not in left_out}
    info = provenance(dataset, index, episode)
    episode = replace(episode, images=images, info=info, extras=extras)
    if not cameras:  # no thread has counted its frames
        meter.add(plan.length(place))
    try:
        check_episode(episode, plan.spec, index)
    except DataError as error:
        raise DataError(f"{dataset.root}: {error}") from error
    return episode


class _Meter:
    """Counts images of all threads and reports frames."""

    def __init__(self, progress: ProgressCallback | None, cameras: int, frames: int) -> None:
        self.progress = progress
        self.cameras = max(1, cameras)
        self.frames = frames
        self._images = 0
        self._lock = threading.Lock()

    def add(self, images: int) -> None:
        if self.progress is None:
            return
        # the call within the lock, so that no smaller number follows a larger one
        with self._lock:
            self._images += images
            self.progress(self._images // self.cameras, self.frames)


if not TYPE_CHECKING:
    __getattr__ = former_attributes(__name__, {"rewrite": "write_derived"})
