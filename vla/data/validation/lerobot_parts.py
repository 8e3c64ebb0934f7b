"""A LeRobot dataset in pieces, each of which may be damaged: what can be read of it, and what is
wrong with the rest.

R: rows of all data files that can be read, D: numbers in a row of a column.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vla.data import schema
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.common.files import inside, read_json_lines
from vla.data.formats.lerobot_parts.data_files import column_numbers, is_list, is_number
from vla.data.formats.lerobot_parts.info import NUMERIC, Info, read_info
from vla.data.formats.lerobot_parts.mapping import Mapping, map_features
from vla.data.formats.lerobot_parts.missing import absent
from vla.data.formats.lerobot_parts.paths import check_name, fill, opened_parquet
from vla.data.formats.lerobot_v2 import DATA_PATH, VIDEO_PATH, check_length
from vla.data.statistics import FeatureStats, numeric_stats

_REMEDY = "copy the file from the dataset's source"


@dataclass
class Part:
    """One parquet file.

    Attributes:
        path: of the file.
        columns: name -> (rows, D), float32 or, what is no float32, float64; of the columns of
            numbers that can be read.
        problems: what is wrong with the file, a sentence each.
    """

    path: Path
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class LeRobotParts:
    """What can be read of the LeRobot dataset at `root`, whatever else is damaged. Opening it never
    fails."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info: Info | None = None
        with contextlib.suppress(DataError):  # the reader reports it
            self.info = read_info(root)

    @functools.cached_property
    def data(self) -> list[Part]:
        """The data files in order; without those of no episode, if the tables say whose they
        are."""
        paths = sorted(self.root.glob("data/*/*.parquet"))
        named = set(self.data_files.values())
        if named:
            paths = [path for path in paths if path in named and absent(path) is None]
        return [_read(self.root, path) for path in paths]

    @functools.cached_property
    def data_files(self) -> dict[int, Path]:
        """Episode -> its data file; empty if the tables do not say it of every episode."""
        template = None if self.info is None else self.info.data_path
        return self._files(template or (DATA_PATH if self.is_v2 else schema.DATA_PATH), "data/")

    def video_files(self, feature: str) -> dict[int, Path]:
        """Episode -> its video; empty if the tables do not say it of every episode."""
        template = None if self.info is None else self.info.video_path
        usual = VIDEO_PATH if self.is_v2 else schema.VIDEO_PATH
        return self._files(template or usual, f"videos/{feature}/", video_key=feature)

    def _files(self, template: str, prefix: str, **values: str) -> dict[int, Path]:
        table = self.table
        tables = len(list(self.root.glob("meta/episodes/*/*.parquet")))
        # a part of the table that cannot be read may name any file
        if self.info is None or table is None or len(self.tables) != tables:
            return {}
        found: dict[int, Path] = {}
        try:
            for row in table.to_dict("records"):
                episode = int(row["episode_index"])
                numbers = {"episode_index": episode, "episode_chunk": episode // self.chunks_size}
                if not self.is_v2:
                    keys = ("chunk_index", "file_index")
                    numbers = {key: int(row[f"{prefix}{key}"]) for key in keys}
                name = fill(template, prefix, **values, **numbers)
                if not found:  # the others differ from it in numbers alone
                    check_name(self.root, name, prefix)
                found[episode] = self.root / name
        except (DataError, KeyError, TypeError, ValueError, OverflowError):
            return {}
        return found

    @property
    def is_v2(self) -> bool:
        """Whether there is a file for each episode."""
        return self.info is not None and self.info.codebase_version.startswith("v2.")

    @property
    def chunks_size(self) -> int:
        return schema.FILES_PER_CHUNK if self.info is None else self.info.chunks_size

    @functools.cached_property
    def tables(self) -> list[tuple[Path, pa.Table]]:
        """The files of the episodes table that can be read (v3)."""
        found = []
        for path in sorted(self.root.glob("meta/episodes/*/*.parquet")):
            table = _table(self.root, path)
            if table is not None:
                found.append((path, table))
        return found

    @functools.cached_property
    def table(self) -> pd.DataFrame | None:
        """The committed episodes by what can be read of their table, with `episode_index` and
        `length`; None if nothing can."""
        if self.tables:
            frames = [table.to_pandas(ignore_metadata=True) for _, table in self.tables]
            table = pd.concat(frames, ignore_index=True)
        else:
            try:
                check_length(self.root)
                rows = read_json_lines(self.root, self.root / "meta/episodes.jsonl", _REMEDY)
            except DataError:
                return None
            table = pd.DataFrame(rows)
        for name in ("episode_index", "length"):
            if name not in table:
                return None
            counts = pd.to_numeric(table[name], errors="coerce")
            table[name] = counts.where(counts.abs() < 2**53)  # beyond, floats miss whole numbers
        table = table.dropna(subset=["episode_index", "length"])
        table = table.sort_values("episode_index", ignore_index=True)
        # Rows of v3 beyond the total were never committed; v2 has no such order of writes.
        total = self.total
        return table if total is None or not self.tables else table.head(total)

    @functools.cached_property
    def tasks(self) -> pa.Table | None:
        """tasks.parquet (v3); None if it cannot be read."""
        path = self.root / schema.TASKS
        return _table(self.root, path) if path.is_file() else None

    @property
    def total(self) -> int | None:
        """Committed episodes by info.json."""
        return None if self.info is None else self.info.total_episodes

    def committed(self, episode: np.ndarray) -> np.ndarray:
        """Which frames are of committed episodes, by their episode_index; a killed writer may have
        left more, and a file of no episode more still."""
        # without a table nothing can be left out
        if self.table is None or not len(self.table):
            return np.ones(len(episode), bool)
        return np.isin(episode, self.table["episode_index"].to_numpy(np.float64))

    @functools.cached_property
    def frames(self) -> dict[str, np.ndarray]:
        """Column -> (R, D), of the columns that all files that can be read have alike."""
        parts = [part.columns for part in self.data if part.columns]
        if not parts:
            return {}
        found = {}
        # Only what all files have: rows of different columns must stay side by side.
        for name in set.intersection(*(set(columns) for columns in parts)):
            arrays = [columns[name] for columns in parts]
            if len({array.shape[1] for array in arrays}) == 1:
                found[name] = np.concatenate(arrays)
        rows = {len(array) for array in found.values()}
        return found if len(rows) == 1 else {}

    @functools.cached_property
    def episode_stats(self) -> dict[int, dict[str, FeatureStats]]:
        """Committed episode -> feature -> true statistics of its frames, if they are finite and lie
        side by side."""
        if "episode_index" not in self.frames:
            return {}
        episode = self.frames["episode_index"][:, 0]
        # by runs of equal indices: an episode that lies in two places is two runs, the last counts
        edges = [0, *(np.flatnonzero(np.diff(episode)) + 1).tolist(), len(episode)]
        kept = self.committed(episode)
        found = {}
        for start, stop in pairwise(edges):
            if stop > start and kept[start] and np.isfinite(episode[start]):
                found[int(episode[start])] = self._stats_of(start, stop)
        return found

    def _stats_of(self, start: int, stop: int) -> dict[str, FeatureStats]:
        """Statistics of the rows [start, stop), of the features that are finite there."""
        found = {}
        for name in self.numeric:
            if name in self.frames and np.isfinite(self.frames[name][start:stop]).all():
                found[name] = numeric_stats(self.frames[name][start:stop])
        return found

    def mapping(self, keys: KeyMap) -> Mapping | None:
        """What is action, state, reward and success; None if info.json does not say."""
        if self.info is None:
            return None
        try:
            return map_features(self.root, self.info.features, keys)
        except DataError:
            return None

    @functools.cached_property
    def numeric(self) -> list[str]:
        """Features of numbers by info.json."""
        features = {} if self.info is None else self.info.features
        return [name for name, feature in features.items() if feature.dtype in NUMERIC]


def _table(root: Path, path: Path) -> pa.Table | None:
    try:
        with opened_parquet(inside(root, path), _REMEDY) as parquet:
            table = parquet.read(use_threads=False)
            table.validate(full=True)  # text that is no UTF-8 would only show when it is used
            return table
    except DataError:
        return None


def _read(root: Path, path: Path) -> Part:
    """A data file, column by column, so that damage in one does not hide the others. Image columns
    are not read."""
    part = Part(path)
    try:
        with opened_parquet(inside(root, path), _REMEDY) as parquet:
            stored = parquet.schema_arrow
    except DataError as error:
        part.problems.append(str(error))
        return part
    for column in stored:
        if not _is_numeric(column.type) or stored.names.count(column.name) != 1:
            continue
        try:
            with opened_parquet(path, _REMEDY) as parquet:
                table = parquet.read(columns=[column.name], use_threads=False)
                place = f"{path}: column {column.name!r}"
                dtype = _dtype(column.type)
                chunks = [chunk for chunk in table.column(column.name).chunks if len(chunk)]
                arrays = [column_numbers(chunk, place, dtype) for chunk in chunks]
                if len({array.shape[1] for array in arrays}) > 1:
                    raise DataError(f"{place} has rows of different lengths; {_REMEDY}")
                if arrays:
                    part.columns[column.name] = np.concatenate(arrays)
        except DataError as error:
            part.problems.append(str(error))
    return part


def _element(kind: pa.DataType) -> pa.DataType:
    while is_list(kind):
        kind = kind.value_type
    return kind


def _dtype(kind: pa.DataType) -> type[Any]:
    # float64 for all else: float32 would round large indices, and hide what is wrong with them
    return np.float32 if _element(kind) in (pa.float16(), pa.float32()) else np.float64


def _is_numeric(kind: pa.DataType) -> bool:
    return is_number(_element(kind))
