"""What the versions of LeRobot datasets have in common: how they are opened, checked and read.

N: frames that are read, E: episodes that are read, S: state dimensions, A: action dimensions.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vla.data import schema
from vla.data.errors import DataError
from vla.data.extras import extra_dtype
from vla.data.format import Columns, DatasetReader, Image, KeyMap
from vla.data.formats.common.dimensions import Part
from vla.data.formats.common.files import read_json
from vla.data.formats.lerobot_parts.checks import check_rows, check_timestamps, first_frames
from vla.data.formats.lerobot_parts.data_files import DataFiles
from vla.data.formats.lerobot_parts.info import VIDEO, read_info, split_range
from vla.data.formats.lerobot_parts.labels import Labels, label
from vla.data.formats.lerobot_parts.mapping import map_features
from vla.data.formats.lerobot_parts.missing import MISSING, Losses
from vla.data.formats.lerobot_parts.spec import derive_spec, image_size, stored_spec
from vla.data.formats.lerobot_parts.video import Segment, read_segments
from vla.data.storage.checksums import CHECKSUM, is_whole
from vla.types import Spec

_INDEX: dict[str, type[Any]] = {
    "episode_index": np.int64,
    "frame_index": np.int64,
    "timestamp": np.float64,
}


class LeRobotFolder(DatasetReader):
    """Reads a folder with a LeRobot dataset; a version says where its tables, tasks and files
    are."""

    keys: KeyMap

    strict_columns: bool
    """Whether every feature of info.json must have a column."""

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        self.root = root
        self.keys = keys or KeyMap()
        self.warnings: list[str] = []
        self.info = read_info(root)
        self._check_checksums()
        self.check_version()
        # The order matters: the table says which files there are, these which episodes and cameras
        # remain, and both which spec follows.
        self._mapping = map_features(root, self.info.features, self.keys)
        self._table = self._choose(self.read_table())
        self._videos = self._find_videos()
        self._files = DataFiles(root, self.data_paths(), self.info.features, self.remedy)
        self._check_columns()
        self._verified: set[Segment] = set()  # whose packets were compared; shared by threads
        self._numbers: dict[str, np.ndarray] = {}
        self._columns: Columns | None = None
        self.metadata = self._read_metadata()
        self.spec = self._read_spec()
        labels = self._read_labels()
        self.instructions = labels.instructions
        self.frame_tasks = labels.frame_tasks
        self.warnings += labels.warnings
        self.episodes = self._make_episodes(labels.task_index)

    # --- what a version says ----------------------------------------------------------------------

    @abstractmethod
    def check_version(self) -> None:
        """Raises DataError if info.json is of a version that this reader does not read."""

    @abstractmethod
    def read_table(self) -> pd.DataFrame:
        """One row per episode, sorted: `source` (its index in the dataset), `length`, `row` (its
        first among all rows of the data files), `tasks` (a list of instructions), and whatever the
        version needs."""

    @abstractmethod
    def read_tasks(self) -> dict[int, str]:
        """task_index -> instruction. Raises DataError if there is no such table."""

    def read_subtasks(self) -> dict[int, str]:
        """subtask_index -> instruction. Raises DataError if there is no such table."""
        raise DataError(
            f"{self.root}: has no table of sub-tasks; leave `instruction` out, or name a column "
            "of texts (`instruction=COLUMN`)"
        )

    @abstractmethod
    def episode_files(self) -> list[Path] | None:
        """The data file of each episode of the table; None if the dataset does not say."""

    @abstractmethod
    def data_paths(self) -> list[Path]:
        """The data files that hold the rows, in order. `row` of the table is adjusted to them if
        files are missing."""

    @abstractmethod
    def remedy(self, file: Path) -> str:
        """What a damaged data file takes with it, and what to do."""

    @abstractmethod
    def find_video(self, feature: str) -> list[Segment] | None:
        """Where each episode's frames of `feature` lie; None if the dataset has no videos of it at
        all."""

    # --- opening ----------------------------------------------------------------------------------

    def _choose(self, table: pd.DataFrame) -> pd.DataFrame:
        """The episodes of the chosen split, or all; with warnings for what is odd but harmless."""
        path = self.root / schema.INFO
        splits = self.info.splits
        for name in splits if isinstance(splits, dict) else ():
            try:
                start, stop = split_range(path, splits, name)
            except DataError as error:
                self.warn(str(error))
                continue
            if stop > len(table) or start > stop:
                self.warn(
                    f"{path}: split {name!r} is {splits[name]!r}, the dataset has {len(table)} "
                    "episodes; those that exist are read"
                )
        frames = int(table["length"].sum())
        if self.info.total_frames not in (None, frames):
            self.warn(
                f"{path}: total_frames is {self.info.total_frames}, the episodes have {frames}; "
                "the latter is used"
            )
        if not np.array_equal(table["source"], np.arange(len(table))):
            self.warn(
                f"{self.root}: episode indices have holes ({len(table)} episodes, the last is "
                f"number {table['source'].iloc[-1]}); episodes are named by these numbers, and "
                "keep theirs as original_episode"
            )
        if self.keys.split is None:
            return table
        start, stop = split_range(path, splits, self.keys.split)
        chosen = table.iloc[start:stop].reset_index(drop=True)
        if not len(chosen):
            raise DataError(
                f"{path}: split {self.keys.split!r} ({splits[self.keys.split]}) has no episodes; "
                "choose another"
            )
        return chosen

    def warn(self, sentence: str) -> None:
        """Adds to the warnings, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def _check_checksums(self) -> None:
        """Warns if a small file of a dataset that was written here has changed since, or its spec
        is gone."""
        info = self.root / schema.INFO
        spec = self.root / schema.SPEC
        # Only this package's writer puts a checksum there: without its spec something was lost.
        if not spec.exists() and is_whole(info) is not None:
            self.warn(
                f"{spec}: no such file, it held the limits of actions; they are taken from the "
                "data: restore it"
            )
        for name in (schema.INFO, schema.SPEC, schema.METADATA):
            path = self.root / name
            # Links are refused later, when the files are read: none is followed before.
            if path.is_file() and not path.is_symlink() and is_whole(path) is False:
                self.warn(
                    f"{path}: is not what was written (its checksum differs); restore it from a "
                    f"copy, or remove its key {CHECKSUM!r} if you edited it yourself"
                )

    def _find_videos(self) -> dict[str, list[Segment]]:
        """Feature -> segments, for the videos that there are. Episodes without all of their files
        leave the table, and a camera that is only declared is left out; with warnings."""
        losses = Losses(self.root, self._table["source"].tolist())
        data = self.episode_files()
        if data is not None:
            losses.look(data)
        found: dict[str, list[Segment]] = {}
        gone = []
        # a copy: cameras without images are taken out of the mapping meanwhile
        for camera, feature in list(self._mapping.cameras.items()):
            if self.info.features[feature].dtype != VIDEO:
                continue
            segments = self.find_video(feature)
            if segments is None:
                self._leave_out(camera, feature, "of which the dataset has no images")
                continue
            found[feature] = segments
            if all(cause == MISSING for cause in losses.causes([s.path for s in segments])):
                gone.append(camera)
        # Without all of its files a camera is no reason to leave every episode out, unless there
        # is no other.
        for camera in gone if len(gone) < len(self._mapping.cameras) else ():
            feature = self._mapping.cameras[camera]
            name = found.pop(feature)[0].path.relative_to(self.root).as_posix()
            self._leave_out(camera, feature, f"whose videos are all missing (first {name})")
        for camera, feature in self._mapping.cameras.items():
            losses.look([segment.path for segment in found.get(feature, ())], camera)
        losses.check_any_whole()
        cameras = list(self._mapping.cameras)
        for sentence in losses.sentences(cameras, {c: self._without(c) for c in cameras}):
            self.warn(sentence)
        missing = self._table["source"].to_numpy()[~losses.kept]
        self.missing_episodes = tuple(int(number) for number in missing)
        self._table = self._table[losses.kept].reset_index(drop=True)
        kept = np.flatnonzero(losses.kept)
        return {name: [found[name][i] for i in kept] for name in found}

    def _without(self, camera: str) -> str:
        """The keys that read all cameras but one, as they are typed."""
        others = {name: key for name, key in self._mapping.cameras.items() if name != camera}
        return " ".join(f"`cameras.{c}={key}`" for c, key in others.items()) or "`cameras={}`"

    def _check_columns(self) -> None:
        """What info.json says of columns against the data files. A feature that was never recorded
        is no feature from here on, with a warning."""
        self.warnings += self._files.check_columns(strict=self.strict_columns)
        features = self.info.features
        stored = self._files.columns
        lacking = [n for n, f in features.items() if f.dtype != VIDEO and n not in stored]
        for camera, feature in list(self._mapping.cameras.items()):
            if feature in lacking:
                self._leave_out(camera, feature, "of which the dataset has no images")
        recorded = {name: feature for name, feature in features.items() if name not in lacking}
        cameras = self._mapping.cameras
        self._mapping = replace(map_features(self.root, recorded, self.keys), cameras=cameras)
        for sentence in self._mapping.warnings:
            self.warn(sentence)
        ends = schema.TERMINATED in recorded
        said = {
            "rewards": self._mapping.reward is not None,
            "success": self._mapping.success is not None,
            "terminated": ends,
        }
        self.recorded = frozenset(name for name, is_said in said.items() if is_said)

    def _leave_out(self, camera: str, feature: str, why: str) -> None:
        lacks = f"{self.root / schema.INFO}: declares the camera {feature!r}, {why}"
        # Asked for by name, or promised by a spec of ours: not to be left out in silence.
        if self.keys.cameras is not None or (self.root / schema.SPEC).exists():
            raise DataError(
                f"{lacks}; restore them, or read the other cameras: {self._without(camera)}"
            )
        self.warn(f"{lacks}; it is left out")
        del self._mapping.cameras[camera]

    def _read_metadata(self) -> dict[str, Any]:
        path = self.root / schema.METADATA
        if path.exists():
            stored = read_json(self.root, path)
            return {key: value for key, value in stored.items() if key != CHECKSUM}
        if isinstance(self.info.robot_type, str):
            return {"robot_type": self.info.robot_type}
        return {}

    def _read_spec(self) -> Spec:
        # called only if limits must be found: reading all actions is slow
        def actions() -> np.ndarray:
            return self._columns_of(self._mapping.action)

        if (self.root / schema.SPEC).exists():
            return stored_spec(self.root, self.info, self._mapping, self.keys, actions)
        return derive_spec(self.root, self.info, self._mapping, actions, self.keys.control_hz)

    def _read_labels(self) -> Labels:
        return label(
            self.root,
            self.keys,
            self._table,
            tasks=self.read_tasks,
            subtasks=self.read_subtasks,
            features=self.info.features,
            values=self._values,
        )

    def _values(self, name: str) -> list[Any]:
        """A column's value at each frame that is read."""
        values = self._files.values(name)
        self._check_count(len(values), name)
        rows = self._rows()
        return values[rows] if isinstance(rows, slice) else [values[row] for row in rows.tolist()]

    def episode_name(self, index: int) -> str:
        return f"episode {self._table['source'].iloc[index]}"

    def _make_episodes(self, task_index: np.ndarray) -> pd.DataFrame:
        table = self._table
        self.episode_numbers = table["source"].to_numpy()
        episodes = pd.DataFrame(
            {
                "episode_index": np.arange(len(table)),
                "length": table["length"].to_numpy(),
                "first_frame": first_frames(table["length"].to_numpy()),
                "task_index": task_index,
            }
        )
        # Stored results are of the dataset's own rewards, not of another column that `keys` name.
        if self.keys.reward is None and self.keys.success is None:
            for name in ("success", "return", "terminated"):
                if name in table:
                    episodes[name] = table[name].to_numpy()
        # What an episode remembers stays with it, also if it gets another number here.
        if "info" in table:
            episodes["info"] = table["info"].to_numpy()
        elif not np.array_equal(table["source"], episodes["episode_index"]):
            episodes["info"] = [
                json.dumps({"original_episode": int(source)}) for source in table["source"]
            ]
        return episodes

    # --- numbers ----------------------------------------------------------------------------------

    def columns(self) -> Columns:
        if self._columns is None:
            self._load()
            self._check_order()
            has_ends = "terminated" in self.recorded
            self._columns = Columns(
                state=self._columns_of(self._mapping.state),
                actions=self._columns_of(self._mapping.action),
                rewards=self._single(self._mapping.reward),
                success=self._single(self._mapping.success) > 0,
                terminated=self._single(schema.TERMINATED if has_ends else None) > 0,
                extras={name: self._extra(name) for name in self._mapping.extras},
            )
            self._numbers = {}  # copied above; twice in memory would be too much
        return self._columns

    def _load(self) -> None:
        """Reads all numbers that are of use, in one pass over the files, unless they are at
        hand."""
        names: dict[str, type[Any]] = dict.fromkeys(self._mapping.numeric, np.float32)
        if "terminated" in self.recorded:
            names[schema.TERMINATED] = np.float32
        for name in self._mapping.extras:
            # a column that is the state too is read as that
            names.setdefault(name, extra_dtype(self.info.features[name].dtype))
        for name, dtype in _INDEX.items():
            if name in self.info.features and self._files.has(name):
                names[name] = dtype
        if names.keys() <= self._numbers.keys():
            return
        found, rows = self._files.read(names)
        self._check_files(rows)
        self._check_count(int(rows.sum()), next(iter(names)))
        chosen = self._rows()  # of a split, or of all
        self._numbers = {name: values[chosen] for name, values in found.items()}

    def _rows(self) -> np.ndarray | slice:
        """The rows of the data files that are read, in order."""
        first = self._table["row"].to_numpy()
        length = self._table["length"].to_numpy()
        starts = first_frames(length)
        frames = np.arange(int(length.sum()))
        # A slice is a view: no copy of all numbers in the usual case.
        if np.array_equal(first, starts):
            return slice(0, len(frames))
        return np.repeat(first - starts, length) + frames

    def _check_files(self, rows: np.ndarray) -> None:
        """Raises DataError if a file holds another number of rows than it should."""

    def _check_count(self, rows: int, name: str) -> None:
        needed = int((self._table["row"] + self._table["length"]).max())
        if rows < needed:
            raise DataError(
                f"{self.root}: {name!r} has {rows} rows, {schema.INFO.rpartition('/')[2]} says "
                f"{needed} frames; a data file is missing or foreign: restore the data folder"
            )

    def _columns_of(self, parts: list[Part]) -> np.ndarray:
        """Dimensions of columns side by side, float32 (N, D)."""
        self._load()
        if not parts:
            return np.zeros((int(self._table["length"].sum()), 0), np.float32)
        return np.concatenate([self._numbers[p.key][:, list(p.dims)] for p in parts], axis=1)

    def _extra(self, name: str) -> np.ndarray:
        """An extra column, (N,) or (N, D), in the type in which it is stored."""
        self._load()
        values = self._numbers[name]
        return values[:, 0].copy() if values.shape[1] == 1 else values.copy()

    def _single(self, name: str | None) -> np.ndarray:
        """A column of one number per row, float32 (N,); zeros without a name."""
        if name is None:
            return np.zeros(int(self._table["length"].sum()), np.float32)
        self._load()
        return self._numbers[name][:, 0].copy()

    def _check_order(self) -> None:
        check_rows(self.root, self._table, self._numbers)
        for sentence in check_timestamps(self.root, self._table, self._numbers, self.info.fps):
            self.warn(sentence)

    # --- images -----------------------------------------------------------------------------------

    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        feature = self._mapping.cameras[camera]
        videos = self._videos.get(feature)
        if videos is None:
            for frame, row, count in self._runs(start, stop):
                for found, data in self._files.images(feature, row, row + count):
                    yield frame + found - row, data
            return
        size = image_size(self.root, feature, self.info.features[feature])
        starts = self.episodes["first_frame"].to_numpy()
        lengths = self.episodes["length"].to_numpy()
        first, last = np.searchsorted(starts, [start, stop - 1], side="right") - 1
        if stop <= start:
            last = first - 1
        parts = []
        for episode in range(first, last + 1):
            episode_start = int(starts[episode])
            begin = max(start, episode_start)
            end = min(stop, episode_start + int(lengths[episode]))
            parts.append((begin, videos[episode], begin - episode_start, end - episode_start))
        yield from read_segments(
            parts, self.info.fps, size, feature=feature, warn=self.warn, verified=self._verified
        )

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(frame, row, count) of the frames [start, stop), in as few pieces as their rows follow
        one another."""
        rows = self._rows()
        if isinstance(rows, slice):
            yield start, start, min(stop, rows.stop) - start
            return
        rows = rows[start:stop]
        edges = np.flatnonzero(np.diff(rows) != 1) + 1  # where the next row is elsewhere
        for begin, end in zip([0, *edges], [*edges, len(rows)], strict=True):
            if end > begin:
                yield start + int(begin), int(rows[begin]), int(end - begin)

    def fingerprint(self) -> str:
        videos = {s.path for segments in self._videos.values() for s in segments}
        paths = [*self._files.paths, *sorted(videos)]
        # Of sizes and times, not of bytes: it is asked for at every start of a training.
        facts: list[Any] = []
        for path in paths:
            status = path.stat()
            facts.append((str(path.relative_to(self.root)), status.st_size, status.st_mtime_ns))
        facts.append(("frames", int(self._table["length"].sum()), 0))
        if self.keys != KeyMap():
            # what EpisodeDataset does to images is part of its own fingerprint
            read_as = self.keys.model_dump_json(exclude={"orientation", "colours"})
            facts.append(("keys", read_as, 0))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
