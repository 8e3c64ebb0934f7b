"""Writes episodes to disk so that after every one of them the folder is a whole dataset.

Every file is written beside its final name, synced and renamed. The order makes `info.json` the commit:
data rows, tasks, the episodes table and the statistics of a new episode come first, and readers ignore what
lies beyond the totals of `info.json`. A process killed at any instant loses at most the episode in progress,
and `resume=True` drops what was left of it.

Episodes join the newest data file until it reaches `OPEN_FILE_BYTES`; it is written again with each of them,
so there is never a parquet file without footer, nothing to compact at the end, and few files.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import schema
from vla.data.atomic import TEMPORARY_SUFFIX, atomic_path, write_json
from vla.data.episode import Episode, check_episode
from vla.data.errors import DataError
from vla.data.statistics import FeatureStats, image_stats, merge_stats, numeric_stats
from vla.types import Spec, SpecError

OPEN_FILE_BYTES = 16 * 2**20
EPISODES_PER_TABLE = 100
_VERSIONS = ("vla", "numpy", "pyarrow", "pillow")


class DatasetWriter:
    """Adds episodes to a dataset folder. Use as a context manager.

    Args:
        root: folder of the dataset; made where it is missing.
        spec: what the robot sees and does; every episode must fit it.
        robot_type: free text for LeRobot's `robot_type`.
        metadata: JSON values kept in `meta/vla_metadata.json` (renderer, preset, the config that made the data).
        resume: continue a dataset that exists. Its spec must be `spec`; `metadata` replaces equal keys.

    Raises:
        DataError: `root` holds a dataset and `resume` is False, or its spec differs.
    """

    def __init__(
        self,
        root: str | Path,
        spec: Spec,
        *,
        robot_type: str = "",
        metadata: dict[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.root = Path(root)
        self.spec = spec
        self.robot_type = robot_type
        self._closed = False
        self._episodes = self._frames = 0
        self._instructions: list[str] = []
        self._stats: dict[str, FeatureStats] = {}
        self._data: list[pa.Table] = []
        self._data_bytes = 0
        self._data_file = 0
        self._rows: list[dict[str, Any]] = []
        exists = (self.root / schema.INFO).exists()
        if exists and not resume:
            raise DataError(
                f"{self.root}: holds a dataset already; choose another folder, or continue it with resume=True"
            )
        if exists:
            self._continue()
        known = {}
        if (self.root / schema.METADATA).exists():
            known = json.loads((self.root / schema.METADATA).read_text())
        write_json(self.root / schema.METADATA, known | {"versions": _versions()} | (metadata or {}))
        if not exists:
            write_json(self.root / schema.SPEC, spec.to_dict())
            self._write_info(0, 0, 0)

    @property
    def num_episodes(self) -> int:
        """Episodes on disk."""
        return self._episodes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the memory of the newest file. The dataset is whole on disk already. May be called twice."""
        self._closed = True
        self._data, self._rows = [], []

    def add_episode(self, episode: Episode) -> int:
        """Writes one episode and returns its index; when this returns, the episode is durable.

        Raises:
            DataError: the episode does not fit the spec (nothing is written), or the writer is closed.
            OSError: the disk is full or fails; the dataset keeps the episodes before.
        """
        index = self._episodes
        if self._closed:
            raise DataError(f"{self.root}: episode {index}: the writer is closed; open one with resume=True")
        check_episode(episode, self.spec, index)
        instructions = list(self._instructions)
        if episode.instruction not in instructions:
            instructions.append(episode.instruction)
        task_index = instructions.index(episode.instruction)
        images = {camera: episode.png(camera) for camera in self.spec.cameras}
        numeric = schema.numeric_columns(
            episode, self.spec, index=index, first_frame=self._frames, task_index=task_index
        )
        stats = {schema.IMAGE_PREFIX + camera: image_stats(files) for camera, files in images.items()}
        stats |= {name: numeric_stats(values) for name, values in numeric.items()}
        self._commit(episode, schema.data_table(images, numeric), stats, instructions, task_index)
        return index

    def _commit(
        self,
        episode: Episode,
        table: pa.Table,
        stats: dict[str, FeatureStats],
        instructions: list[str],
        task_index: int,
    ) -> None:
        """Writes the files of a new episode in the order of the module's docstring, then remembers them."""
        data, data_bytes, data_file = [*self._data, table], self._data_bytes + table.nbytes, self._data_file
        if self._data and data_bytes > OPEN_FILE_BYTES:
            data, data_bytes, data_file = [table], table.nbytes, data_file + 1
        rows = [*self._rows, self._episode_row(episode, stats, task_index, data_file)]
        if len(self._rows) == EPISODES_PER_TABLE:
            rows = rows[-1:]
        merged = {name: merge_stats([self._stats[name], s]) if self._stats else s for name, s in stats.items()}

        write_row_groups(_numbered(self.root, schema.DATA_PATH, data_file), data)
        if len(instructions) > len(self._instructions):
            write_row_groups(self.root / schema.TASKS, [schema.tasks_table(instructions)])
        tables = [pa.Table.from_pylist(rows, schema=_episodes_schema(rows[0]))]
        write_row_groups(_numbered(self.root, schema.EPISODES_PATH, self._episodes // EPISODES_PER_TABLE), tables)
        write_json(self.root / schema.STATS, {name: _listed(s) for name, s in merged.items()})
        self._write_info(self._episodes + 1, self._frames + len(episode), len(instructions))
        self._instructions = instructions
        self._episodes, self._frames = self._episodes + 1, self._frames + len(episode)
        self._data, self._data_bytes, self._data_file, self._rows = data, data_bytes, data_file, rows
        self._stats = merged

    def _episode_row(
        self, episode: Episode, stats: dict[str, FeatureStats], task_index: int, data_file: int
    ) -> dict[str, Any]:
        table_file = self._episodes // EPISODES_PER_TABLE
        row: dict[str, Any] = {
            "episode_index": self._episodes,
            "tasks": [episode.instruction],
            "length": len(episode),
            "data/chunk_index": data_file // schema.FILES_PER_CHUNK,
            "data/file_index": data_file % schema.FILES_PER_CHUNK,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + len(episode),
            "task_index": task_index,
            "success": bool(np.any(episode.success)),
            "return": float(np.sum(episode.rewards, dtype=np.float64)),
            "terminated": bool(episode.terminated),
            "info": json.dumps(episode.info),
            "meta/episodes/chunk_index": table_file // schema.FILES_PER_CHUNK,
            "meta/episodes/file_index": table_file % schema.FILES_PER_CHUNK,
        }
        return row | {f"stats/{name}/{key}": v for name, s in stats.items() for key, v in _listed(s).items()}

    def _write_info(self, episodes: int, frames: int, tasks: int) -> None:
        values = schema.info(self.spec, robot_type=self.robot_type, episodes=episodes, frames=frames, tasks=tasks)
        write_json(self.root / schema.INFO, values)

    def _continue(self) -> None:
        """Takes up the dataset on disk, without what lies beyond its last committed episode."""
        info = json.loads((self.root / schema.INFO).read_text())
        path = self.root / schema.SPEC
        if not path.exists():
            raise DataError(
                f"{self.root}: was not made by this writer ({schema.SPEC} is missing); copy it to a new folder"
            )
        try:
            stored = Spec.load(path)
        except SpecError as error:
            raise DataError(f"{error}; restore the file or start a new folder") from error
        if stored != self.spec:
            lines = (
                "; ".join(stored.differences(self.spec)) or f"control_hz {stored.control_hz} != {self.spec.control_hz}"
            )
            raise DataError(f"{self.root}: cannot resume with another spec: {lines}")
        self.robot_type = self.robot_type or info.get("robot_type") or ""
        self._episodes, self._frames = int(info["total_episodes"]), int(info["total_frames"])
        for leftover in self.root.rglob("*" + TEMPORARY_SUFFIX):
            leftover.unlink()
        if self._episodes:
            tasks = pq.read_table(self.root / schema.TASKS).column("task").to_pylist()
            self._instructions = tasks[: int(info["total_tasks"])]
            self._continue_tables()
            self._continue_data()

    def _continue_tables(self) -> None:
        last = (self._episodes - 1) // EPISODES_PER_TABLE
        for file in range(last + 1):
            rows = pq.read_table(_numbered(self.root, schema.EPISODES_PATH, file)).to_pylist()
            rows = [row for row in rows if row["episode_index"] < self._episodes]
            parts = [_stored_stats(row) for row in rows]
            parts += [self._stats] if self._stats else []
            self._stats = {name: merge_stats([part[name] for part in parts]) for name in parts[0]}
            self._rows = rows
        _numbered(self.root, schema.EPISODES_PATH, last + 1).unlink(missing_ok=True)

    def _continue_data(self) -> None:
        newest = self._rows[-1]
        self._data_file = newest["data/chunk_index"] * schema.FILES_PER_CHUNK + newest["data/file_index"]
        _numbered(self.root, schema.DATA_PATH, self._data_file + 1).unlink(missing_ok=True)
        file = pq.ParquetFile(_numbered(self.root, schema.DATA_PATH, self._data_file))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            if table.column("episode_index")[0].as_py() < self._episodes:
                self._data.append(table)
        self._data_bytes = sum(table.nbytes for table in self._data)


def _numbered(root: Path, pattern: str, number: int) -> Path:
    chunk, file = divmod(number, schema.FILES_PER_CHUNK)
    return root / pattern.format(chunk_index=chunk, file_index=file)


def write_row_groups(path: Path, tables: list[pa.Table]) -> None:
    """One parquet file with one row group per table, atomically."""
    with (
        atomic_path(path) as temporary,
        # Dictionaries would only copy the PNG bytes once more before falling back to plain pages.
        pq.ParquetWriter(temporary, tables[0].schema, compression="snappy", use_dictionary=False) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=max(1, len(table)))


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
    found = {"python": sys.version.split()[0]}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
