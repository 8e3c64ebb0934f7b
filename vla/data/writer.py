"""Writes episodes to disk so that after every one of them the folder is a whole dataset.

Every file is written beside its final name, synced and renamed. The order makes `info.json` the commit:
data rows, tasks, the episodes table and the statistics of a new episode come first, and readers ignore what
lies beyond the totals of `info.json`. A process killed at any instant loses at most the episode in progress,
and `resume=True` drops what was left of it.

Episodes join the newest data file until it reaches `OPEN_FILE_BYTES`; it is written again with each of them (or
each group of them: `add_episodes`), so there is never a parquet file without footer, nothing to compact at the
end, and few files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
        self._state = _State()
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
        return self._state.episodes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the memory of the newest file. The dataset is whole on disk already. May be called twice."""
        self._closed = True
        self._state = replace(self._state, data=[], rows=[])

    def add_episode(self, episode: Episode) -> int:
        """Writes one episode and returns its index; when this returns, the episode is durable.

        Raises:
            DataError: the episode does not fit the spec (nothing is written), or the writer is closed.
            OSError: the disk is full or fails; the dataset keeps the episodes before.
        """
        return self.add_episodes([episode])[0]

    def add_episodes(self, episodes: Sequence[Episode]) -> list[int]:
        """Writes several episodes at the cost of about one and returns their indices.

        All of them become durable together, when this returns. Raises as `add_episode` does, and then none is kept.
        """
        first = self._state.episodes
        if self._closed:
            raise DataError(f"{self.root}: episode {first}: the writer is closed; open one with resume=True")
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
        write_json(self.root / schema.STATS, {name: _listed(s) for name, s in state.stats.items()})
        self._write_info(state.episodes, state.frames, len(state.instructions))
        self._state = state
        return list(range(first, state.episodes))

    def _join(self, state: _State, episode: Episode) -> None:
        """Adds an episode to `state`; writes a file only where it is full, and never what `info.json` counts."""
        if episode.instruction not in state.instructions:
            state.instructions.append(episode.instruction)
        task_index = state.instructions.index(episode.instruction)
        images = {camera: episode.png(camera) for camera in self.spec.cameras}
        numeric = schema.numeric_columns(
            episode, self.spec, index=state.episodes, first_frame=state.frames, task_index=task_index
        )
        stats = {schema.IMAGE_PREFIX + camera: image_stats(files) for camera, files in images.items()}
        stats |= {name: numeric_stats(values) for name, values in numeric.items()}
        table = schema.data_table(images, numeric)
        if state.data and state.data_bytes + table.nbytes > OPEN_FILE_BYTES:
            write_row_groups(_numbered(self.root, schema.DATA_PATH, state.data_file), state.data)
            state.data, state.data_bytes, state.data_file = [], 0, state.data_file + 1
        if len(state.rows) == EPISODES_PER_TABLE:
            self._write_rows(state)
            state.rows = []
        state.data.append(table)
        state.data_bytes += table.nbytes
        state.rows.append(_episode_row(state, episode, stats, task_index))
        state.stats = {n: merge_stats([state.stats[n], s]) if state.stats else s for n, s in stats.items()}
        state.episodes += 1
        state.frames += len(episode)

    def _write_tail(self, state: _State) -> None:
        """Writes the newest data file and the newest part of the episodes table."""
        write_row_groups(_numbered(self.root, schema.DATA_PATH, state.data_file), state.data)
        self._write_rows(state)

    def _write_rows(self, state: _State) -> None:
        table_file = (state.episodes - 1) // EPISODES_PER_TABLE
        tables = [pa.Table.from_pylist(state.rows, schema=_episodes_schema(state.rows[0]))]
        write_row_groups(_numbered(self.root, schema.EPISODES_PATH, table_file), tables)

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
        state = self._state = _State(episodes=int(info["total_episodes"]), frames=int(info["total_frames"]))
        for leftover in self.root.rglob("*" + TEMPORARY_SUFFIX):
            leftover.unlink()
        if state.episodes:
            tasks = pq.read_table(self.root / schema.TASKS).column("task").to_pylist()
            state.instructions = tasks[: int(info["total_tasks"])]
            self._continue_tables()
            self._continue_data()

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
        state.data_file = newest["data/chunk_index"] * schema.FILES_PER_CHUNK + newest["data/file_index"]
        _remove_from(self.root, schema.DATA_PATH, state.data_file + 1)
        file = pq.ParquetFile(_numbered(self.root, schema.DATA_PATH, state.data_file))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            if table.column("episode_index")[0].as_py() < state.episodes:
                state.data.append(table)
        state.data_bytes = sum(table.nbytes for table in state.data)


@dataclass
class _State:
    """What the writer knows of the dataset: the totals, and what the newest files hold.

    Attributes:
        instructions: row i is task_index i.
        stats: of all episodes.
        data, data_bytes: tables of the newest data file, one per episode, and their size.
        data_file: number of the newest data file.
        rows: of the newest file of the episodes table.
    """

    episodes: int = 0
    frames: int = 0
    instructions: list[str] = field(default_factory=list)
    stats: dict[str, FeatureStats] = field(default_factory=dict)
    data: list[pa.Table] = field(default_factory=list)
    data_bytes: int = 0
    data_file: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def copy(self) -> _State:
        """A state that may change without changing this one."""
        return replace(self, instructions=[*self.instructions], data=[*self.data], rows=[*self.rows])


def _episode_row(state: _State, episode: Episode, stats: dict[str, FeatureStats], task_index: int) -> dict[str, Any]:
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
    return row | {f"stats/{name}/{key}": v for name, s in stats.items() for key, v in _listed(s).items()}


def _numbered(root: Path, pattern: str, number: int) -> Path:
    chunk, file = divmod(number, schema.FILES_PER_CHUNK)
    return root / pattern.format(chunk_index=chunk, file_index=file)


def _remove_from(root: Path, pattern: str, number: int) -> None:
    """Removes the files from `number` on: they were written for episodes that were never committed."""
    while (path := _numbered(root, pattern, number)).exists():
        path.unlink()
        number += 1


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
