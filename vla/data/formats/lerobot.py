"""The native format: LeRobotDataset v3.0 with images in parquet, written here or by LeRobot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vla.config import register
from vla.data import schema
from vla.data.episode import check_finite
from vla.data.errors import DataError
from vla.data.format import Columns, DatasetReader, KeyMap
from vla.data.formats._lerobot_spec import derive_spec, image_features
from vla.types import Spec, SpecError

_PARQUET_MAGIC = b"PAR1"


@register("formats", "lerobot")
class LeRobotReader(DatasetReader):
    """Reads a LeRobotDataset v3.0 folder."""

    @classmethod
    def matches(cls, root: Path) -> bool:
        return (root / schema.INFO).is_file()

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        self.root = root
        self.keys = keys or KeyMap()
        self.raw_info = _read_json(root / schema.INFO)
        self._check_info()
        self.episodes = self._read_episodes()
        self.instructions = self._read_instructions()
        self._files = self._check_files()
        self._check_columns()
        self.metadata = _read_json(root / schema.METADATA) if (root / schema.METADATA).exists() else {}
        self.spec = self._read_spec()
        self._cameras = image_features(self.raw_info["features"])
        self._columns: Columns | None = None
        self._groups: list[tuple[int, int, int]] | None = None

    # --- opening ------------------------------------------------------------------------------------

    def _check_info(self) -> None:
        info, path = self.raw_info, self.root / schema.INFO
        for key in ("codebase_version", "fps", "features"):
            if key not in info:
                raise DataError(f"{path}: lacks {key!r}; copy the file from the dataset's source")
        if not str(info["codebase_version"]).startswith("v3."):
            raise DataError(
                f"{path}: codebase_version is {info['codebase_version']!r}, this reader needs v3.0; "
                "convert it with LeRobot's own converter (v2.1 to v3.0)"
            )
        if schema.ACTION not in info["features"]:
            raise DataError(
                f"{path}: features lack 'action' (there are: {', '.join(info['features'])}); record actions"
            )
        videos = [name for name, feature in info["features"].items() if feature.get("dtype") == "video"]
        if videos:
            raise DataError(
                f"{path}: {', '.join(videos)} are videos; store images (use_videos=False in LeRobot) to read them here"
            )
        if not info.get("total_episodes"):
            raise DataError(f"{self.root}: has no episodes; collect some first")

    def _read_episodes(self) -> pd.DataFrame:
        files = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise DataError(f"{self.root}: meta/episodes has no parquet file; copy it from the dataset's source")
        tables = []
        for file in files:
            _check_footer(file, "it holds the table of episodes: copy it from the dataset's source or collect again")
            names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
            tables.append(pq.read_table(file, columns=names).to_pandas())
        total = int(self.raw_info["total_episodes"])
        episodes = pd.concat(tables, ignore_index=True).sort_values("episode_index", ignore_index=True).head(total)
        expected = np.arange(total)
        if not np.array_equal(episodes["episode_index"], expected):
            raise DataError(
                f"{self.root}: info.json says {total} episodes, the episodes table has {len(episodes)} "
                f"(indices {episodes['episode_index'].min()} to {episodes['episode_index'].max()}); restore meta/episodes"
            )
        episodes["first_frame"] = np.concatenate([[0], np.cumsum(episodes["length"])[:-1]]).astype(np.int64)
        if not np.array_equal(episodes["first_frame"], episodes["dataset_from_index"]):
            raise DataError(
                f"{self.root}: lengths and dataset_from_index of the episodes table contradict; restore meta/episodes"
            )
        return episodes

    def _read_instructions(self) -> list[str]:
        path = self.root / schema.TASKS
        if not path.exists():
            raise DataError(f"{path}: no such file, so the instructions are lost; copy it from the dataset's source")
        _check_footer(path, "it holds the instructions: copy it from the dataset's source")
        table = pq.read_table(path)
        text = "task" if "task" in table.column_names else "__index_level_0__"
        pairs = sorted(zip(table.column("task_index").to_pylist(), table.column(text).to_pylist(), strict=True))
        instructions = [str(task) for _, task in pairs]
        if "task_index" not in self.episodes:
            position = {task: i for i, task in enumerate(instructions)}
            self.episodes["task_index"] = [position[tasks[0]] for tasks in self.episodes["tasks"]]
        return instructions[: int(self.raw_info.get("total_tasks") or len(instructions))]

    def _check_files(self) -> list[Path]:
        files = sorted((self.root / "data").glob("*/*.parquet"))
        if not files:
            raise DataError(f"{self.root}: data has no parquet file; copy the data folder from the dataset's source")
        for file in files:
            _check_footer(file, self._lost(file))
        return files

    def _lost(self, file: Path) -> str:
        """Which episodes a damaged data file takes with it, and what to do."""
        table, path = self.episodes, self.raw_info.get("data_path", schema.DATA_PATH)
        names = [
            path.format(chunk_index=chunk, file_index=number)
            for chunk, number in zip(table["data/chunk_index"], table["data/file_index"], strict=True)
        ]
        lost = [i for i, name in enumerate(names) if self.root / name == file]
        if not lost:
            return "no episode is in it: delete the file"
        return (
            f"episodes {lost[0]} to {lost[-1]} are lost, the other {len(table) - len(lost)} of {len(table)} are readable: "
            "copy the file from the dataset's source or collect again"
        )

    def _check_columns(self) -> None:
        """Compares info.json with the columns of the first data file."""
        stored = pq.read_schema(self._files[0])
        for name, feature in self.raw_info["features"].items():
            if name not in stored.names:
                raise DataError(
                    f"{self._files[0]}: lacks the column {name!r} that {schema.INFO} lists "
                    f"(it has: {', '.join(stored.names)}); remove the feature there or restore the data"
                )
            found = _described(stored.field(name).type)
            expected = _expected(feature)
            if expected is not None and found is not None and found != expected:
                raise DataError(
                    f"{self._files[0]}: column {name!r} holds {found}, {schema.INFO} says {expected}; "
                    "correct the feature's dtype and shape there"
                )

    def _read_spec(self) -> Spec:
        path = self.root / schema.SPEC
        if not path.exists():
            return derive_spec(self.root, self.raw_info, lambda: self._matrix(schema.ACTION))
        try:
            spec = Spec.load(path)
        except SpecError as error:
            raise DataError(f"{error}; restore the file, or delete it to derive the spec from info.json") from error
        width = int(self.raw_info["features"][schema.ACTION]["shape"][0])
        if width != spec.action_dim:
            raise DataError(f"{path}: has {spec.action_dim} action names, info.json says {width}; restore both files")
        missing = [c for c in spec.cameras if c not in image_features(self.raw_info["features"])]
        if missing:
            raise DataError(
                f"{path}: cameras {', '.join(missing)} are not among the features of info.json; restore both files"
            )
        return spec

    # --- reading ------------------------------------------------------------------------------------

    def columns(self) -> Columns:
        if self._columns is None:
            self._check_order()
            columns = Columns(
                state=self._optional(schema.STATE),
                actions=self._matrix(schema.ACTION),
                rewards=self._optional(schema.REWARD, width=1)[:, 0],
                success=self._optional(schema.SUCCESS, width=1)[:, 0] > 0,
                terminated=self._optional(schema.TERMINATED, width=1)[:, 0] > 0,
            )
            self._check_numbers(columns)
            self._columns = columns
        return self._columns

    def _optional(self, name: str, width: int = 0) -> np.ndarray:
        """The column as `_matrix`, or zeros (N, width) where the dataset has none."""
        if name in self.raw_info["features"]:
            return self._matrix(name)
        return np.zeros((int(self.raw_info["total_frames"]), width), np.float32)

    def _check_order(self) -> None:
        """Rows must lie in the order of the episodes table; files that were merged by hand may not."""
        found = self._matrix("episode_index", np.int64)[:, 0]
        expected = np.repeat(np.arange(len(self.episodes)), self.episodes["length"])
        if not np.array_equal(found, expected):
            row = int((found != expected).argmax())
            raise DataError(
                f"{self.root}: frame {row} belongs to episode {found[row]}, the episodes table says {expected[row]}; "
                "data files are out of order, missing or foreign: restore the data folder"
            )

    def _matrix(self, name: str, dtype: type[np.generic] = np.float32) -> np.ndarray:
        """A numeric column of all files as (N, D)."""
        N = int(self.raw_info["total_frames"])
        parts = []
        for file in self._files:
            column = pq.read_table(file, columns=[name]).column(0)
            rows = len(column)
            while pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
                column = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
            if rows and len(column) % rows:
                raise DataError(f"{file}: {name!r} has vectors of different lengths; repair or drop the file")
            parts.append(np.asarray(column.to_numpy(), dtype=dtype).reshape(rows, -1))
        if len({part.shape[1] for part in parts}) > 1 or sum(map(len, parts)) < N:
            raise DataError(
                f"{self.root}: {name!r} has {sum(map(len, parts))} rows, info.json says {N} frames; "
                "a data file is missing or foreign: restore the data folder"
            )
        return np.concatenate(parts)[:N]

    def _check_numbers(self, columns: Columns) -> None:
        starts = self.episodes["first_frame"].to_numpy()
        for name, values, names in (
            ("actions", columns.actions, self.spec.action_names),
            ("state", columns.state, self.spec.state_names),
            ("rewards", columns.rewards[:, None], ()),
        ):
            bad = ~np.isfinite(values).all(1)
            if bad.any():
                episode = int(np.searchsorted(starts, int(bad.argmax()), side="right")) - 1
                stop = starts[episode] + int(self.episodes["length"][episode])
                check_finite(f"{self.root}: episode {episode}", name, values[starts[episode] : stop], names)

    def images(self, camera: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        feature = self._cameras[camera]
        if self._groups is None:
            self._groups = self._row_groups()
        first = 0
        opened: tuple[int, pq.ParquetFile] | None = None
        for file, group, rows in self._groups:
            if first < stop and first + rows > start:
                if opened is None or opened[0] != file:
                    opened = (file, pq.ParquetFile(self._files[file]))
                column = opened[1].read_row_group(group, columns=[feature]).column(0)
                lower, upper = max(start - first, 0), min(stop - first, rows)
                for frame, value in enumerate(column.slice(lower, upper - lower), start=first + lower):
                    yield frame, self._image_bytes(value.as_py(), camera, frame)
            first += rows

    def _image_bytes(self, value: dict[str, Any] | None, camera: str, frame: int) -> bytes:
        if value and value.get("bytes"):
            return bytes(value["bytes"])
        path = self.root / value["path"] if value and value.get("path") else None
        if path is None or not path.is_file():
            raise DataError(
                f"{self.root}: frame {frame}: camera {camera!r} has no image; drop its episode or restore the data"
            )
        return path.read_bytes()

    def _row_groups(self) -> list[tuple[int, int, int]]:
        """(file, row group, rows) of all data, in the order of frames."""
        groups = []
        for number, file in enumerate(self._files):
            footer = pq.read_metadata(file)
            groups += [(number, g, footer.row_group(g).num_rows) for g in range(footer.num_row_groups)]
        return groups

    def fingerprint(self) -> str:
        facts = [(str(f.relative_to(self.root)), f.stat().st_size, f.stat().st_mtime_ns) for f in self._files]
        facts += [("frames", int(self.raw_info["total_frames"]), 0)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no JSON: {error}; restore the file") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected keys and values, found {type(value).__name__}; restore the file")
    return value


def _check_footer(file: Path, remedy: str) -> None:
    """A writer that died before closing leaves a parquet file without its last four bytes."""
    with open(file, "rb") as handle:
        handle.seek(0, 2)
        size = handle.tell()
        handle.seek(max(0, size - 4))
        whole = size >= 12 and handle.read(4) == _PARQUET_MAGIC
    if not whole:
        raise DataError(f"{file}: parquet without footer ({size} bytes; its writer died before closing it); {remedy}")


def _described(kind: pa.DataType) -> str | None:
    """A column's type as "dtype[shape]"; None where the shape is not in the type."""
    if pa.types.is_struct(kind):
        return "image"
    if pa.types.is_fixed_size_list(kind) and not pa.types.is_nested(kind.value_type):
        return f"{_name(kind.value_type)}[{kind.list_size}]"
    return None if pa.types.is_nested(kind) else f"{_name(kind)}[1]"


def _name(kind: pa.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _expected(feature: dict[str, Any]) -> str | None:
    """The same for a feature of info.json; None for what has more than one dimension."""
    if feature["dtype"] == "image":
        return "image"
    shape = [int(v) for v in feature["shape"]]
    return f"{feature['dtype']}[{shape[0]}]" if len(shape) == 1 else None
