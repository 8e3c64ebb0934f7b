"""The native format: LeRobotDataset v3.0, images in parquet or videos, written here or by
LeRobot."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vla.common.registry import register
from vla.data import schema
from vla.data.errors import DataError
from vla.data.formats.common.files import SOURCE, inside
from vla.data.formats.lerobot_parts.base import LeRobotFolder
from vla.data.formats.lerobot_parts.checks import check_episodes, count_columns, without_empty
from vla.data.formats.lerobot_parts.info import read_version
from vla.data.formats.lerobot_parts.labels import collect_tasks
from vla.data.formats.lerobot_parts.missing import absent
from vla.data.formats.lerobot_parts.paths import fill, named_path, opened_parquet
from vla.data.formats.lerobot_parts.video import Segment
from vla.data.storage.video import TIME_TOLERANCE, VideoReader

_SUBTASKS = "meta/subtasks.parquet"
_TEXT_INDEX = "__index_level_0__"
"""Where pandas puts an index without a name: tasks.parquet of LeRobot has the texts there."""


@register("formats", "lerobot")
class LeRobotReader(LeRobotFolder):
    """Reads a LeRobotDataset v3.0 folder: many episodes per file, tables in parquet."""

    strict_columns = True

    @classmethod
    def matches(cls, root: Path) -> bool:
        # Also of an unknown or damaged version: this reader has the messages for it.
        return (root / schema.INFO).is_file() and not str(read_version(root)).startswith("v2.")

    def check_version(self) -> None:
        path = self.root / schema.INFO
        version = self.info.codebase_version
        if version.startswith("v2."):
            raise DataError(
                f"{path}: codebase_version is {version!r}, this reader needs v3.0; read it as "
                "lerobot_v2"
            )
        if not version.startswith("v3."):
            raise DataError(
                f"{path}: codebase_version is {version!r}, expected v2.0, v2.1 or v3.0; "
                "convert it with the LeRobot release that it was made for"
            )
        if not self.info.total_episodes:
            raise DataError(f"{self.root}: has no episodes; collect some first")

    def read_table(self) -> pd.DataFrame:
        files = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise DataError(
                f"{self.root}: meta/episodes has no parquet file; copy it from the dataset's source"
            )
        remedy = (
            "it holds the table of episodes: copy it from the dataset's source or collect again"
        )
        tables = []
        for file in files:
            with opened_parquet(inside(self.root, file), remedy) as parquet:
                stored = parquet.schema_arrow.names
                # statistics are most of the table, and not read here
                names = [name for name in stored if not name.startswith("stats/")]
                # ignore_metadata: pandas would obey, and stumble over, what another library wrote
                # for it into the file.
                table = parquet.read(columns=names).to_pandas(ignore_metadata=True)
            count_columns(
                table,
                ["episode_index", "length", "dataset_from_index", "dataset_to_index"],
                str(file),
            )
            tables.append(table)
        total = int(self.info.total_episodes or 0)
        found = pd.concat(tables, ignore_index=True).sort_values("episode_index", ignore_index=True)
        episodes = found.head(total)
        # In ours the rest is not committed yet, and no reason for a warning.
        is_ours = (self.root / schema.SPEC).exists()
        if len(found) > total and not is_ours:
            self.warn(
                f"{self.root / schema.INFO}: total_episodes is {total}, the episodes table has "
                f"{len(found)}: the rest is left out"
            )
        place = f"{self.root}: the episodes table"
        if len(episodes) < total:
            raise DataError(
                f"{self.root}: info.json says {total} episodes, the episodes table has "
                f"{len(episodes)} (indices {episodes['episode_index'].min()} to "
                f"{episodes['episode_index'].max()}); restore meta/episodes"
            )
        # `source`: with a split chosen, an episode's place here is another than its index there
        episodes = episodes.rename(columns={"episode_index": "source", "dataset_from_index": "row"})
        check_episodes(episodes, place)
        self._check_lengths(episodes)
        episodes = without_empty(episodes, place, self.warn)
        for name in ("success", "terminated", "return", "info", "task_index"):
            if name in episodes and episodes[name].isna().any():
                raise DataError(
                    f"{place}: {name} is not given for every episode; restore meta/episodes"
                )
        if "tasks" not in episodes:
            episodes["tasks"] = [[] for _ in range(len(episodes))]
        lists = [
            tasks if isinstance(tasks, list | np.ndarray) else [] for tasks in episodes["tasks"]
        ]
        episodes["tasks"] = [list(tasks) for tasks in lists]
        self._table = episodes
        self._rates: dict[Path, float] = {}  # of videos that were looked into
        self._first_rows: dict[Path, int] = {}
        """Data file -> the first row of the dataset that an episode has in it."""
        for path, row in zip(self.episode_files() or (), episodes["row"], strict=False):
            self._first_rows[path] = min(row, self._first_rows.get(path, row))
        return episodes

    def _check_lengths(self, episodes: pd.DataFrame) -> None:
        row = episodes["row"].to_numpy()
        length = episodes["length"].to_numpy()
        stop = episodes["dataset_to_index"].to_numpy()
        # Episodes that were taken out leave gaps between the rows of the others.
        whole = episodes["source"].iloc[-1] == len(episodes) - 1
        follows = row[1:] == stop[:-1] if whole else row[1:] >= stop[:-1]
        if (stop - row != length).any() or not follows.all() or (whole and row[0] != 0):
            raise DataError(
                f"{self.root}: lengths and dataset_from_index of the episodes table contradict; "
                "restore meta/episodes"
            )

    def read_tasks(self) -> dict[int, str]:
        pairs = self._read_texts(self.root / schema.TASKS, "task")
        tasks = collect_tasks(pairs, str(self.root / schema.TASKS))
        if not (self.root / schema.SPEC).exists():  # not all makers write total_tasks
            return tasks
        # A writer that was interrupted may have left instructions of episodes that were never
        # finished.
        used = set(self._table["task_index"]) if "task_index" in self._table else set()
        total = self.info.total_tasks or len(pairs)
        return {index: task for index, task in tasks.items() if index < total or index in used}

    def read_subtasks(self) -> dict[int, str]:
        path = self.root / _SUBTASKS
        return collect_tasks(self._read_texts(path, "subtask"), str(path))

    def _read_texts(self, path: Path, kind: str) -> list[tuple[Any, Any]]:
        """(index, text) of a table of instructions."""
        if not path.exists():
            raise DataError(
                f"{path}: no such file, so the instructions are lost; copy it from the dataset's "
                "source"
            )
        remedy = f"it holds the instructions: {SOURCE}"
        with opened_parquet(inside(self.root, path), remedy) as parquet:
            table = parquet.read()
            text = kind if kind in table.column_names else _TEXT_INDEX
            for name in (f"{kind}_index", text):
                if name not in table.column_names:
                    raise DataError(
                        f"{path}: lacks the column {name!r}; copy it from the dataset's source"
                    )
            indices = table.column(f"{kind}_index").to_pylist()
            return list(zip(indices, table.column(text).to_pylist(), strict=True))

    def episode_files(self) -> list[Path] | None:
        table = self._table
        if not {"data/chunk_index", "data/file_index"} <= set(table):
            return None
        template = self.info.data_path or schema.DATA_PATH
        source = f"{self.root / schema.INFO}: data_path"
        paths = []
        for chunk, number in zip(table["data/chunk_index"], table["data/file_index"], strict=True):
            name = fill(template, source, chunk_index=_whole(chunk), file_index=_whole(number))
            paths.append(self.root / name)
        return paths

    def data_paths(self) -> list[Path]:
        files = sorted((self.root / "data").glob("*/*.parquet"))
        if not files:
            raise DataError(
                f"{self.root}: data has no parquet file; copy the data folder from the dataset's "
                "source"
            )
        lost = [path for path in self._first_rows if absent(path) is not None]
        if not lost:
            return files
        # Rows are counted over the files that are here: those of a missing file move all later
        # ones. Files of no episode are left out, for nothing says which rows they held.
        present = [path for path in files if path in self._first_rows and path not in lost]
        moved, rows = {}, 0
        for path in present:
            moved[path] = rows - self._first_rows[path]
            with opened_parquet(inside(self.root, path), self.remedy(path)) as parquet:
                rows += parquet.metadata.num_rows
        self._table["row"] += [moved[path] for path in self.episode_files() or ()]
        return present

    def remedy(self, file: Path) -> str:
        table = self._table
        paths = self.episode_files()
        if paths is None:
            return "copy the file from the dataset's source or collect again"
        lost = [
            int(source) for source, path in zip(table["source"], paths, strict=True) if path == file
        ]
        if not lost:
            return "no episode is in it: delete the file"
        return (
            f"episodes {lost[0]} to {lost[-1]} are lost, the other {len(table) - len(lost)} of "
            f"{len(table)} are readable: copy the file from the dataset's source or collect again"
        )

    def find_video(self, feature: str) -> list[Segment] | None:
        table = self._table
        place = f"{self.root}: the episodes table"
        chunk = f"videos/{feature}/chunk_index"
        file = f"videos/{feature}/file_index"
        time = f"videos/{feature}/from_timestamp"
        crc32 = f"videos/{feature}/crc32"  # of ours alone
        if time not in table:
            return None
        counts = [chunk, file]
        if crc32 in table:
            counts.append(crc32)
        count_columns(table, counts, place)
        table[time] = pd.to_numeric(table[time], errors="coerce")
        template = self.info.video_path or schema.VIDEO_PATH
        source = f"{self.root / schema.INFO}: video_path"
        paths: dict[str, Path] = {}
        segments = []
        for row in table.to_dict("records"):
            name = fill(
                template, source, video_key=feature, chunk_index=row[chunk], file_index=row[file]
            )
            if name not in paths:  # resolving a path asks the disk: once per file, not per episode
                paths[name] = named_path(self.root, name, "video_path of info.json")
            first = self._frame_at(feature, row["source"], row[time], paths[name])
            segments.append(
                Segment(paths[name], row["source"], first, row["length"], False, row.get(crc32))
            )
        _check_apart(segments, feature, place)
        return segments

    def _frame_at(
        self,
        feature: str,
        episode: int,
        time: float,
        path: Path,
    ) -> int:
        """The number of the frame at `time` seconds, which must be a frame's time."""
        place = (
            f"{self.root}: the episodes table: episode {episode}: from_timestamp of {feature!r} "
            f"is {time:g}"
        )
        if not (np.isfinite(time) and time >= 0):
            raise DataError(f"{place}, expected seconds; restore meta/episodes")
        # The nearest frame, if that is meant: a time between two frames is of another rate.
        first = round(time * self.info.fps)
        if abs(first / self.info.fps - time) <= TIME_TOLERANCE:
            return first
        # or of the file's own rate, which may be 29.97 for 30
        rate = self.info.fps if absent(path) else self._rate_of(path)
        first = round(time * rate)
        if abs(first / rate - time) > TIME_TOLERANCE:
            raise DataError(
                f"{place}, which is between two frames at {self.info.fps:g} fps; restore "
                "meta/episodes"
            )
        return first

    def _rate_of(self, path: Path) -> float:
        if path not in self._rates:
            with VideoReader(path, self.info.fps) as video:
                self._rates[path] = video.fps
        return self._rates[path]


def _whole(value: Any) -> int:
    """A number of a file; -1, which no file has, if the table is damaged."""
    is_number = isinstance(value, int | float | np.number) and np.isfinite(value)
    return int(value) if is_number else -1


def _check_apart(segments: list[Segment], feature: str, place: str) -> None:
    """Two episodes never show the same frame."""
    # in this order, two that overlap are neighbours
    ordered = sorted(segments, key=lambda segment: (segment.path, segment.first))
    for one, other in pairwise(ordered):
        if one.path == other.path and one.first + one.length > other.first:
            raise DataError(
                f"{place}: {feature!r} of episode {one.episode} ({one.length} frames from frame "
                f"{one.first}) runs into episode {other.episode} (from frame {other.first}) in "
                f"{one.path.name}; restore meta/episodes"
            )
