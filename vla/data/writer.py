"""Writes episodes to disk so that after every one of them the folder is a whole dataset.

Every file is written beside its final name, synced and renamed. The order makes `info.json` the
commit: data rows, tasks, the episodes table and the statistics of a new episode come first, and
readers ignore what lies beyond the totals of `info.json`. All but the statistics carry a checksum
of themselves (`seals.py`): they need no other file to agree with, which a kill could leave behind.
A process killed at any instant loses at most the episode in progress, and `resume=True` drops what
was left of it.

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
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.common.atomic import TEMPORARY_SUFFIX, atomic_path, write_json
from vla.common.versions import installed_versions
from vla.data import schema
from vla.data.episode import Episode, check_episode
from vla.data.errors import DataError
from vla.data.statistics import FeatureStats, image_stats, merge_stats, numeric_stats
from vla.data.storage.checksums import BLANK, CHECKSUM, seal, write_sealed_json
from vla.data.storage.video import VideoConfig
from vla.data.storage.video_packets import Clip, OpenVideo, encode_clip, read_clip, write_clips
from vla.types import Spec, SpecError

OPEN_FILE_BYTES = 16 * 2**20
OPEN_VIDEO_BYTES = 8 * 2**20
EPISODES_PER_TABLE = 100
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
        DataError: `root` holds a dataset and `resume` is False, or its spec or `video` differs; or
            `video` cannot hold images of the spec's sizes.
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
        self._state = _State(
            videos={camera: OpenVideo() for camera in spec.cameras} if video else {}
        )
        if video is not None:
            _check_cameras(self.root, spec, video)
        exists = (self.root / schema.INFO).exists()
        if exists and not resume:
            raise DataError(
                f"{self.root}: holds a dataset already; choose another folder, or continue it "
                "(--resume, or resume=True)"
            )
        if exists:
            try:
                self._continue()
            except (pa.ArrowException, json.JSONDecodeError, KeyError, FileNotFoundError) as error:
                raise DataError(
                    f"{self.root}: is damaged and cannot be continued: {error}; restore the folder"
                ) from error
        known = {}
        if (self.root / schema.METADATA).exists():
            known = json.loads((self.root / schema.METADATA).read_text())
        write_sealed_json(
            self.root / schema.METADATA, known | {"versions": _versions()} | (metadata or {})
        )
        if not exists:
            write_sealed_json(self.root / schema.SPEC, spec.to_dict())
            self._write_info(0, 0, 0)

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
            # Where this fails too, resume=True does it.
            with contextlib.suppress(OSError):
                self._write_stats(self._state)
        self._closed = True
        self._state = replace(self._state, data=[], rows=[], videos={})

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
        for index, episode in enumerate(episodes, first):
            check_episode(episode, self.spec, index)
        if not episodes:
            return []
        state = self._state.copy()
        for episode in episodes:
            self._join(state, episode)
        self._write_tail(state)
        if len(state.instructions) > len(self._state.instructions):
            write_row_groups(self.root / schema.TASKS, [schema.tasks_table(state.instructions)])
        self._stats_are_ahead = True
        self._write_stats(state)
        self._write_info(state.episodes, state.frames, len(state.instructions))
        self._stats_are_ahead = False
        self._state = state
        return list(range(first, state.episodes))

    def _join(self, state: _State, episode: Episode) -> None:
        """Adds an episode to `state`; writes a file only where it is full, and never what
        `info.json` counts."""
        if episode.instruction not in state.instructions:
            state.instructions.append(episode.instruction)
        task_index = state.instructions.index(episode.instruction)
        numeric = schema.numeric_columns(
            episode,
            self.spec,
            index=state.episodes,
            first_frame=state.frames,
            task_index=task_index,
        )
        pictures = self._pictures(episode)
        clips = self._clips(pictures, state.episodes)
        stats = {
            schema.IMAGE_PREFIX + camera: image_stats(images) for camera, images in pictures.items()
        }
        stats |= {name: numeric_stats(values) for name, values in numeric.items()}
        table = schema.data_table({} if clips else pictures, numeric)
        self._make_room(state, table, clips)
        row = _episode_row(state, episode, stats, task_index) | self._video_columns(state, clips)
        state.data.append(table)
        state.data_bytes += table.nbytes
        state.videos |= {
            camera: state.videos[camera].with_clip(clip) for camera, clip in clips.items()
        }
        state.rows.append(row)
        state.stats = {
            n: merge_stats([state.stats[n], s]) if state.stats else s for n, s in stats.items()
        }
        state.episodes += 1
        state.frames += len(episode)

    def _pictures(self, episode: Episode) -> dict[str, Any]:
        """PNG files per camera, or with video uint8 (L, H, W, 3)."""
        return {
            camera: episode.frames(camera) if self.video else episode.png(camera)
            for camera in self.spec.cameras
        }

    def _clips(self, frames: Mapping[str, np.ndarray], index: int) -> dict[str, Clip]:
        """The episode's video per camera, encoded side by side: the encoders let go of the
        interpreter lock."""
        video = self.video
        if video is None or not frames:
            return {}

        def encode(camera: str) -> Clip:
            name = f"episode {index}: camera {camera!r}"
            return encode_clip(frames[camera], self.spec.control_hz, video, name=name)

        with ThreadPoolExecutor(len(frames)) as pool:
            return dict(zip(frames, pool.map(encode, frames), strict=True))

    def _make_room(self, state: _State, table: pa.Table, clips: dict[str, Clip]) -> None:
        """Writes for the last time each newest file that is full, and begins the next one."""
        full = (
            state.data_bytes + table.nbytes > OPEN_FILE_BYTES
            or len(state.data) >= EPISODES_PER_TABLE
        )
        if state.data and full:
            write_row_groups(_numbered(self.root, schema.DATA_PATH, state.data_file), state.data)
            state.data, state.data_bytes, state.data_file = [], 0, state.data_file + 1
        for camera, clip in clips.items():
            if not state.videos[camera].takes(clip, OPEN_VIDEO_BYTES):
                self._write_video(camera, state.videos[camera])
                state.videos[camera] = state.videos[camera].next()
        if len(state.rows) == EPISODES_PER_TABLE:
            self._write_rows(state)
            state.rows = []

    def _video_columns(self, state: _State, clips: dict[str, Clip]) -> dict[str, Any]:
        """Where the episode lies in each camera's newest file, as columns of the episodes table."""
        row: dict[str, Any] = {}
        for camera, clip in clips.items():
            video, key = state.videos[camera], f"videos/{schema.IMAGE_PREFIX}{camera}"
            row[f"{key}/chunk_index"] = video.number // schema.FILES_PER_CHUNK
            row[f"{key}/file_index"] = video.number % schema.FILES_PER_CHUNK
            row[f"{key}/from_timestamp"] = video.frames / self.spec.control_hz
            row[f"{key}/to_timestamp"] = (video.frames + len(clip)) / self.spec.control_hz
            row[f"{key}/crc32"] = clip.checksum
        return row

    def _write_tail(self, state: _State) -> None:
        """Writes the newest videos, the newest data file and the newest part of the episodes
        table."""
        for camera, video in state.videos.items():
            self._write_video(camera, video)
        write_row_groups(_numbered(self.root, schema.DATA_PATH, state.data_file), state.data)
        self._write_rows(state)

    def _write_video(self, camera: str, video: OpenVideo) -> None:
        path = _numbered(self.root, _video_pattern(camera), video.number)
        write_clips(path, video.clips, self.spec.control_hz)

    def _write_stats(self, state: _State) -> None:
        write_json(self.root / schema.STATS, {name: _listed(s) for name, s in state.stats.items()})

    def _write_rows(self, state: _State) -> None:
        table_file = (state.episodes - 1) // EPISODES_PER_TABLE
        tables = [pa.Table.from_pylist(state.rows, schema=_episodes_schema(state.rows[0]))]
        write_row_groups(_numbered(self.root, schema.EPISODES_PATH, table_file), tables)

    def _write_info(self, episodes: int, frames: int, tasks: int) -> None:
        values = schema.info(
            self.spec,
            self.video,
            robot_type=self.robot_type,
            episodes=episodes,
            frames=frames,
            tasks=tasks,
        )
        write_sealed_json(self.root / schema.INFO, values)

    def _continue(self) -> None:
        """Takes up the dataset on disk, without what lies beyond its last committed episode."""
        info = json.loads((self.root / schema.INFO).read_text())
        path = self.root / schema.SPEC
        if not path.exists():
            raise DataError(
                f"{self.root}: was not made by this writer ({schema.SPEC} is missing); copy it to "
                "a new folder"
            )
        try:
            stored = schema.load_spec(path)
        except SpecError as error:
            raise DataError(f"{error}; restore the file or start a new folder") from error
        if stored != self.spec:
            lines = (
                "; ".join(stored.differences(self.spec))
                or f"control_hz {stored.control_hz} != {self.spec.control_hz}"
            )
            raise DataError(f"{self.root}: cannot resume with another spec: {lines}")
        self._check_same_video(info["features"])
        self.robot_type = self.robot_type or info.get("robot_type") or ""
        state = self._state = replace(
            self._state, episodes=int(info["total_episodes"]), frames=int(info["total_frames"])
        )
        for leftover in self.root.rglob("*" + TEMPORARY_SUFFIX):
            leftover.unlink()
        if state.episodes:
            tasks = pq.read_table(self.root / schema.TASKS).column("task").to_pylist()
            state.instructions = tasks[: int(info["total_tasks"])]
            self._continue_tables()
            self._continue_data()
            self._continue_videos()
            self._write_stats(state)
        else:
            self._drop_everything()

    def _drop_everything(self) -> None:
        """Removes what a writer left that died in its first episode."""
        patterns = [
            schema.DATA_PATH,
            schema.EPISODES_PATH,
            *(_video_pattern(camera) for camera in self._state.videos),
        ]
        for pattern in patterns:
            _remove_from(self.root, pattern, 0)
        for name in (schema.TASKS, schema.STATS):
            (self.root / name).unlink(missing_ok=True)

    def _check_same_video(self, stored: dict[str, Any]) -> None:
        """Raises DataError if the cameras on disk are not stored as `video` says."""
        for name, expected in schema.features(self.spec, self.video).items():
            found = stored.get(name, {})
            if expected["dtype"] in ("image", "video") and found != expected:
                raise DataError(
                    f"{self.root}: cannot resume: {name} is stored as {_stored_as(found)}, the "
                    f"video config asks for {_stored_as(expected)}; set it back or start a new "
                    "folder"
                )

    def _continue_tables(self) -> None:
        state = self._state
        last = (state.episodes - 1) // EPISODES_PER_TABLE
        for file in range(last + 1):
            rows = pq.read_table(_numbered(self.root, schema.EPISODES_PATH, file)).to_pylist()
            rows = [row for row in rows if row["episode_index"] < state.episodes]
            parts = [_stored_stats(row) for row in rows]
            parts += [state.stats] if state.stats else []
            state.stats = {name: merge_stats([part[name] for part in parts]) for name in parts[0]}
            state.rows = rows
        _remove_from(self.root, schema.EPISODES_PATH, last + 1)

    def _continue_data(self) -> None:
        state = self._state
        newest = state.rows[-1]
        state.data_file = (
            newest["data/chunk_index"] * schema.FILES_PER_CHUNK + newest["data/file_index"]
        )
        _remove_from(self.root, schema.DATA_PATH, state.data_file + 1)
        file = pq.ParquetFile(_numbered(self.root, schema.DATA_PATH, state.data_file))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            if table.column("episode_index")[0].as_py() < state.episodes:
                state.data.append(table)
        state.data_bytes = sum(table.nbytes for table in state.data)

    def _continue_videos(self) -> None:
        state, newest = self._state, self._state.rows[-1]
        for camera in state.videos:
            key = f"videos/{schema.IMAGE_PREFIX}{camera}"
            number = (
                newest[f"{key}/chunk_index"] * schema.FILES_PER_CHUNK + newest[f"{key}/file_index"]
            )
            _remove_from(self.root, _video_pattern(camera), number + 1)
            frames = round(newest[f"{key}/to_timestamp"] * self.spec.control_hz)
            clip = read_clip(
                _numbered(self.root, _video_pattern(camera), number), frames, self.spec.control_hz
            )
            state.videos[camera] = OpenVideo(number, (clip,))


@dataclass
class _State:
    """What the writer knows of the dataset: the totals, and what the newest files hold.

    Attributes:
        instructions: row i is task_index i.
        stats: of all episodes.
        data, data_bytes: tables of the newest data file, one per episode, and their size.
        data_file: number of the newest data file.
        rows: of the newest file of the episodes table.
        videos: camera -> its newest video file; empty if images are stored.
    """

    episodes: int = 0
    frames: int = 0
    instructions: list[str] = field(default_factory=list)
    stats: dict[str, FeatureStats] = field(default_factory=dict)
    data: list[pa.Table] = field(default_factory=list)
    data_bytes: int = 0
    data_file: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    videos: dict[str, OpenVideo] = field(default_factory=dict)

    def copy(self) -> _State:
        """A state that may change without changing this one."""
        return replace(
            self,
            instructions=[*self.instructions],
            data=[*self.data],
            rows=[*self.rows],
            videos={**self.videos},
        )


def _check_cameras(root: Path, spec: Spec, video: VideoConfig) -> None:
    """Raises DataError if a camera cannot be stored as video files."""
    for camera, size in spec.cameras.items():
        if not _CAMERA_NAME.fullmatch(camera):
            raise DataError(
                f"{root}: camera {camera!r} names the folder of its videos; use letters, digits, "
                "'_', '-' and '.' only"
            )
        video.check_size(f"{root}: camera {camera!r}", *size)


def _video_pattern(camera: str) -> str:
    """Path of a camera's videos, without their numbers."""
    return schema.VIDEO_PATH.replace("{video_key}", schema.IMAGE_PREFIX + camera)


def _stored_as(feature: dict[str, Any]) -> str:
    """A camera's feature of info.json in words."""
    size = "x".join(str(v) for v in feature.get("shape", [])[:2])
    if feature.get("dtype") != "video":
        return f"{feature.get('dtype', 'nothing')} {size}".strip()
    details = ", ".join(
        f"{key.removeprefix('video.')} {value}" for key, value in feature.get("info", {}).items()
    )
    return f"video {size} ({details})"


def _episode_row(
    state: _State, episode: Episode, stats: dict[str, FeatureStats], task_index: int
) -> dict[str, Any]:
    table_file = state.episodes // EPISODES_PER_TABLE
    row: dict[str, Any] = {
        "episode_index": state.episodes,
        "tasks": [episode.instruction],
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
    return row | {
        f"stats/{name}/{key}": v for name, s in stats.items() for key, v in _listed(s).items()
    }


def _numbered(root: Path, pattern: str, number: int) -> Path:
    chunk, file = divmod(number, schema.FILES_PER_CHUNK)
    return root / pattern.format(chunk_index=chunk, file_index=file)


def _remove_from(root: Path, pattern: str, number: int) -> None:
    """Removes the files from `number` on: they were written for episodes that were never
    committed."""
    while (path := _numbered(root, pattern, number)).exists():
        path.unlink()
        number += 1


def write_row_groups(path: Path, tables: list[pa.Table]) -> None:
    """One parquet file with one row group per table, sealed, atomically."""
    kept = {
        key: value
        for key, value in (tables[0].schema.metadata or {}).items()
        if key != CHECKSUM.encode()
    }
    with atomic_path(path) as temporary:
        # Dictionaries would only copy the PNG bytes once more before falling back to plain pages.
        with pq.ParquetWriter(
            temporary,
            tables[0].schema.with_metadata(kept or None),
            compression="snappy",
            use_dictionary=False,
            write_page_checksum=True,
        ) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(1, len(table)))
            writer.add_key_value_metadata({CHECKSUM: BLANK})
        seal(temporary)


def _listed(stats: FeatureStats) -> dict[str, Any]:
    return {name: value.tolist() for name, value in stats.items()}


def _stored_stats(row: dict[str, Any]) -> dict[str, FeatureStats]:
    result: dict[str, FeatureStats] = {}
    for key, value in row.items():
        if key.startswith("stats/"):
            feature, _, name = key.removeprefix("stats/").rpartition("/")
            result.setdefault(feature, {})[name] = np.asarray(value)
    return result


def _episodes_schema(row: dict[str, Any]) -> pa.Schema:
    """The same types in every file of the episodes table, whatever the values."""
    return pa.Table.from_pylist([row]).schema


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0]} | installed_versions(_VERSIONS)
