"""Writes episodes to disk so that after every one of them the folder is a whole dataset.

Every file is written beside its final name, synced and renamed. The order makes `info.json` the
commit: data rows, tasks, the episodes table and the statistics of a new episode come first, and
readers ignore what lies beyond the totals of `info.json`. All but the statistics carry a checksum
of themselves (`storage/checksums.py`): they need no other file to agree with, which a kill could
leave behind. A process killed at any instant loses at most the episode in progress, and
`resume=True` drops what was left of it.

Episodes join the newest data file until it reaches `OPEN_FILE_BYTES`; it is written again with each
of them (or each group of them: `add_episodes`), so there is never a parquet file without footer,
nothing to compact at the end, and few files.

With `video`, each camera's newest mp4 grows in the same way up to `OPEN_VIDEO_BYTES`: an episode is
encoded once, from a keyframe on, and joins by copying packets, so that adding costs its own
encoding and a file of a few megabytes. Frames beyond the last committed episode may stand at the
end of the newest file; no row of the episodes table points to them.

`stats.json` is of committed episodes only, but for one gap: a process killed between it and
`info.json` leaves the lost episode in it until `resume=True` opens the dataset.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from vla.common.atomic import write_json
from vla.common.errors import UserError
from vla.common.folder_lock import FolderInUseError, alone
from vla.common.versions import installed_versions
from vla.data import schema
from vla.data.episode import Episode, check_episode
from vla.data.errors import DataError
from vla.data.extras import check_same_columns, extra_features
from vla.data.resuming import DAMAGE, check_empty, read_metadata, resumed_state
from vla.data.statistics import FeatureStats, image_stats, joined_stats, numeric_stats
from vla.data.storage.checksums import write_checksummed_json
from vla.data.storage.row_groups import write_row_groups
from vla.data.storage.video import VideoConfig
from vla.data.storage.video_packets import OpenVideo, Packets, encode_packets, write_packets
from vla.data.writer_state import WriterState, listed, numbered, video_pattern
from vla.types import Spec

# The newest file is written again with every commit, so its greatest size is what an episode costs:
# larger files would make adding slow, smaller ones would be many.
OPEN_FILE_BYTES = 16 * 2**20
OPEN_VIDEO_BYTES = 8 * 2**20
EPISODES_PER_TABLE = 100
# It becomes the name of a folder: no slash, and no leading dot, which would hide it.
_CAMERA_NAME = re.compile(r"\w[\w.-]*")
_VERSIONS = ("vla", "numpy", "pyarrow", "pillow", "av")


class DatasetWriter:
    """Adds episodes to a dataset folder. Use as a context manager.

    Args:
        root: folder of the dataset; made if it is missing.
        spec: what the robot sees and does; every episode must fit it.
        robot_type: free text for LeRobot's `robot_type`.
        metadata: JSON values kept in `meta/vla_metadata.json` (renderer, preset, the config that
            made the data).
        resume: continue a dataset that exists. Its spec must be `spec`, its cameras must be stored
            as `video` says; `metadata` replaces equal keys.
        video: how cameras become video (needs the package `av`); None stores every image without
            loss, as PNG.

    Raises:
        DataError: `root` holds a dataset and `resume` is False, or its spec or `video` differs;
            another writer adds to it; or `video` cannot hold images of the spec's sizes.
    """

    def __init__(
        self,
        root: str | Path,
        spec: Spec,
        *,
        robot_type: str = "",
        metadata: dict[str, Any] | None = None,
        resume: bool = False,
        video: VideoConfig | None = None,
    ) -> None:
        self.root = Path(root)
        self.spec = spec
        self.robot_type = robot_type
        self.video = video
        self._closed = False
        self._stats_are_ahead = False
        self._state = WriterState()
        if video is not None:
            _check_cameras(self.root, spec, video)
            self._state.videos = {camera: OpenVideo() for camera in spec.cameras}
        self._lock = contextlib.ExitStack()
        # before what looks like a leftover of a killed writer is removed: it may be another's work
        try:
            self._lock.enter_context(alone(self.root))
        except FolderInUseError as error:
            raise DataError(str(error)) from error
        try:
            self._open(metadata or {}, resume=resume)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, metadata: dict[str, Any], *, resume: bool) -> None:
        """Takes up what is there, or begins."""
        exists = os.path.lexists(self.root / schema.INFO)
        if not exists:
            check_empty(self.root)
        if exists and not resume:
            raise DataError(
                f"{self.root}: holds a dataset already; choose another folder, or continue it "
                "(--resume, or resume=True)"
            )
        if exists:
            try:
                self._resume()
            except DataError:
                raise
            except DAMAGE as error:
                raise DataError(
                    f"{self.root}: is damaged and cannot be continued: {error}; restore the folder"
                ) from error
        known = {}
        if (self.root / schema.METADATA).exists():
            known = read_metadata(self.root)
        write_checksummed_json(
            self.root / schema.METADATA, known | {"versions": _versions()} | metadata
        )
        if not exists:
            # info.json last: a folder that has it is a dataset, and needs its spec to be resumed
            write_checksummed_json(self.root / schema.SPEC, self.spec.to_dict())
            self._write_info(self._state)

    def _resume(self) -> None:
        """Takes up the dataset on disk, without what lies beyond its last committed episode."""
        state, robot_type = resumed_state(self.root, self.spec, self.video, EPISODES_PER_TABLE)
        self._state = state
        self.robot_type = self.robot_type or robot_type
        if state.episodes:
            self._write_stats(state)

    @property
    def num_episodes(self) -> int:
        """Episodes on disk."""
        return self._state.episodes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the memory of the newest file. The dataset is whole on disk already. May be called
        twice."""
        if self._stats_are_ahead:
            # An exception came between stats.json and info.json: take the lost episode out of it.
            # If this fails too, resume=True does it.
            with contextlib.suppress(OSError):
                self._write_stats(self._state)
        self._closed = True
        self._state = replace(self._state, data=[], rows=[], videos={})
        self._lock.close()

    def add_episode(self, episode: Episode) -> int:
        """Writes one episode and returns its index; when this returns, the episode is durable.

        Raises:
            DataError: the episode does not fit the spec (nothing is written), or the writer is
                closed.
            OSError: the disk is full or fails; the dataset keeps the episodes before.
        """
        return self.add_episodes([episode])[0]

    def add_episodes(self, episodes: Sequence[Episode]) -> list[int]:
        """Writes several episodes at the cost of about one and returns their indices.

        All of them become durable together, when this returns. Raises as `add_episode` does, and
        then none is kept.
        """
        first = self._state.episodes
        if self._closed:
            raise DataError(
                f"{self.root}: episode {first}: the writer is closed; open one with resume=True"
            )
        # all before the first is written: a bad one must not leave its predecessors half committed
        extras = self._state.extras
        for index, episode in enumerate(episodes, first):
            check_episode(episode, self.spec, index)
            # the first episode decides which extra columns there are
            extras = extra_features(episode.extras) if extras is None else extras
            check_same_columns(f"episode {index}", episode.extras, extras)
        if not episodes:
            return []
        state = self._state.copy()  # the writer's own changes only when all is on disk
        state.extras = extras
        for episode in episodes:
            self._join(state, episode)
        try:
            self._write_tail(state)
        except UserError:
            raise
        except (pa.ArrowException, ValueError) as error:
            # tables are written in one form; only those that were taken up can have another
            raise DataError(
                f"{self.root}: what is there is of another form than what is added "
                f"({str(error).splitlines()[0]}); restore the folder, or begin in another"
            ) from error
        if len(state.instructions) > len(self._state.instructions):
            write_row_groups(self.root / schema.TASKS, [schema.tasks_table(state.instructions)])
        # A resumed dataset takes its statistics from the episodes table, so they may run ahead.
        self._stats_are_ahead = True
        self._write_stats(state)
        # The commit: until this rename, readers see the dataset as it was before.
        self._write_info(state)
        self._stats_are_ahead = False
        self._state = state
        return list(range(first, state.episodes))

    def _join(self, state: WriterState, episode: Episode) -> None:
        """Adds an episode to `state`; writes a file only if it is full, and never what `info.json`
        counts."""
        task_index = _task_indices(state, episode)
        numeric = schema.numeric_columns(
            episode,
            self.spec,
            index=state.episodes,
            first_frame=state.frames,
            task_index=task_index,
        )
        images = self._images(episode)
        packets = self._encoded(images, state.episodes)
        stats: dict[str, FeatureStats] = {}
        for camera, of_camera in images.items():
            stats[schema.IMAGE_PREFIX + camera] = image_stats(of_camera)
        for name, values in numeric.items():
            stats[name] = numeric_stats(values)
        table = schema.data_table({} if packets else images, numeric)
        # before the row is made: it names the files that the episode goes into, maybe new ones
        self._make_room(state, table, packets)
        row = _episode_row(state, episode, stats, int(task_index[0]))
        row |= self._video_columns(state, packets)
        state.data.append(table)
        state.data_bytes += table.nbytes
        for camera, of_episode in packets.items():
            state.videos[camera] = state.videos[camera].with_packets(of_episode)
        state.rows.append(row)
        state.stats = joined_stats(state.stats, stats)
        state.episodes += 1
        state.frames += len(episode)

    def _images(self, episode: Episode) -> dict[str, Any]:
        """PNG files per camera, or with video uint8 (L, H, W, 3)."""
        if self.video:
            return {camera: episode.frames(camera) for camera in self.spec.cameras}
        return {camera: episode.png(camera) for camera in self.spec.cameras}

    def _encoded(self, frames: Mapping[str, np.ndarray], index: int) -> dict[str, Packets]:
        """The episode's video per camera; empty if images are stored."""
        video = self.video
        if video is None or not frames:
            return {}

        def encode(camera: str) -> Packets:
            name = f"episode {index}: camera {camera!r}"
            return encode_packets(frames[camera], self.spec.control_hz, video, name=name)

        # side by side, since the encoders let go of the interpreter lock
        with ThreadPoolExecutor(len(frames)) as pool:
            return dict(zip(frames, pool.map(encode, frames), strict=True))

    def _make_room(
        self,
        state: WriterState,
        table: pa.Table,
        packets: dict[str, Packets],
    ) -> None:
        """Writes for the last time each newest file that is full, and begins the next one."""
        full = state.data_bytes + table.nbytes > OPEN_FILE_BYTES
        # Video datasets have no images in their tables: the number of row groups ends a file.
        full = full or len(state.data) >= EPISODES_PER_TABLE
        if state.data and full:
            write_row_groups(numbered(self.root, schema.DATA_PATH, state.data_file), state.data)
            state.data = []
            state.data_bytes = 0
            state.data_file += 1
        for camera, of_episode in packets.items():
            if not state.videos[camera].takes(of_episode, OPEN_VIDEO_BYTES):
                self._write_video(camera, state.videos[camera])
                state.videos[camera] = state.videos[camera].next()
        if len(state.rows) == EPISODES_PER_TABLE:
            self._write_rows(state)
            state.rows = []

    def _video_columns(self, state: WriterState, packets: dict[str, Packets]) -> dict[str, Any]:
        """Where the episode lies in each camera's newest file, as columns of the episodes table."""
        row: dict[str, Any] = {}
        for camera, of_episode in packets.items():
            video = state.videos[camera]
            key = f"videos/{schema.IMAGE_PREFIX}{camera}"
            row[f"{key}/chunk_index"] = video.number // schema.FILES_PER_CHUNK
            row[f"{key}/file_index"] = video.number % schema.FILES_PER_CHUNK
            row[f"{key}/from_timestamp"] = video.frames / self.spec.control_hz
            row[f"{key}/to_timestamp"] = (video.frames + len(of_episode)) / self.spec.control_hz
            # of the packets, not of the file, which further episodes join
            row[f"{key}/crc32"] = of_episode.checksum
        return row

    def _write_tail(self, state: WriterState) -> None:
        """Writes the newest videos, the newest data file and the newest part of the episodes
        table."""
        for camera, video in state.videos.items():
            self._write_video(camera, video)
        write_row_groups(numbered(self.root, schema.DATA_PATH, state.data_file), state.data)
        self._write_rows(state)

    def _write_video(self, camera: str, video: OpenVideo) -> None:
        path = numbered(self.root, video_pattern(camera), video.number)
        write_packets(path, video.parts, self.spec.control_hz)

    def _write_stats(self, state: WriterState) -> None:
        # without a checksum: it follows from the frames, and `validate` compares it with them
        write_json(self.root / schema.STATS, {name: listed(s) for name, s in state.stats.items()})

    def _write_rows(self, state: WriterState) -> None:
        table_file = (state.episodes - 1) // EPISODES_PER_TABLE
        tables = [pa.Table.from_pylist(state.rows, schema=_episodes_schema(state.rows[0]))]
        write_row_groups(numbered(self.root, schema.EPISODES_PATH, table_file), tables)

    def _write_info(self, state: WriterState) -> None:
        values = schema.info(
            self.spec,
            self.video,
            extras=state.extras,
            robot_type=self.robot_type,
            episodes=state.episodes,
            frames=state.frames,
            tasks=len(state.instructions),
        )
        write_checksummed_json(self.root / schema.INFO, values)


def _check_cameras(root: Path, spec: Spec, video: VideoConfig) -> None:
    """Raises DataError if a camera cannot be stored as video files."""
    for camera, size in spec.cameras.items():
        if not _CAMERA_NAME.fullmatch(camera):
            raise DataError(
                f"{root}: camera {camera!r} names the folder of its videos; use letters, digits, "
                "'_', '-' and '.' only"
            )
        video.check_size(f"{root}: camera {camera!r}", *size)


def _task_indices(state: WriterState, episode: Episode) -> np.ndarray:
    """The task_index of each step, int64 (L,); new instructions join those of `state`."""
    texts = episode.step_instructions
    known = set(state.instructions)
    state.instructions += [text for text in dict.fromkeys(texts) if text not in known]
    place = {text: index for index, text in enumerate(state.instructions)}
    return np.array([place[text] for text in texts], np.int64)


def _episode_row(
    state: WriterState, episode: Episode, stats: dict[str, FeatureStats], task_index: int
) -> dict[str, Any]:
    table_file = state.episodes // EPISODES_PER_TABLE
    row: dict[str, Any] = {
        "episode_index": state.episodes,
        # in the order in which they come, as LeRobot lists them
        "tasks": list(dict.fromkeys(episode.step_instructions)),
        "length": len(episode),
        "data/chunk_index": state.data_file // schema.FILES_PER_CHUNK,
        "data/file_index": state.data_file % schema.FILES_PER_CHUNK,
        "dataset_from_index": state.frames,
        "dataset_to_index": state.frames + len(episode),
        "task_index": task_index,
        "success": bool(np.any(episode.success)),
        "return": float(np.sum(episode.rewards, dtype=np.float64)),
        "terminated": bool(episode.terminated),
        "info": json.dumps(episode.info),
        "meta/episodes/chunk_index": table_file // schema.FILES_PER_CHUNK,
        "meta/episodes/file_index": table_file % schema.FILES_PER_CHUNK,
    }
    for name, of_feature in stats.items():
        for key, value in listed(of_feature).items():
            row[f"stats/{name}/{key}"] = value
    return row


def _episodes_schema(row: dict[str, Any]) -> pa.Schema:
    """The same types in every file of the episodes table, whatever the values."""
    return pa.Table.from_pylist([row]).schema


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0]} | installed_versions(_VERSIONS)
