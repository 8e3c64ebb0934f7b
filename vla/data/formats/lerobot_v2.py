"""LeRobotDataset v2.0 and v2.1: one parquet file and one video per episode, tables as lines of
JSON."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from vla.common.registry import register
from vla.data import schema
from vla.data.errors import DataError
from vla.data.formats.common.files import SOURCE, inside, read_json_lines, read_text
from vla.data.formats.lerobot_parts.base import LeRobotFolder
from vla.data.formats.lerobot_parts.checks import (
    check_episodes,
    count_columns,
    first_frames,
    without_empty,
)
from vla.data.formats.lerobot_parts.info import read_version
from vla.data.formats.lerobot_parts.labels import collect_tasks
from vla.data.formats.lerobot_parts.paths import fill, named_path
from vla.data.formats.lerobot_parts.video import Segment

EPISODES = "meta/episodes.jsonl"
TASKS = "meta/tasks.jsonl"
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"

_MANY = 10_000
"""Lines for each file: more are not looked for."""


def check_length(root: Path) -> None:
    """Raises DataError if a long table names far more episodes than there are files: looking for
    each of them would take minutes."""
    path = root / EPISODES
    lines = read_text(root, path, SOURCE).count("\n")
    if lines <= _MANY:
        return
    files = sum(len(names) for _, _, names in os.walk(root / "data"))
    if lines > _MANY * max(1, files):
        raise DataError(
            f"{path}: has {lines} lines, and {files} files are in {root / 'data'}; copy the data "
            "folder from the dataset's source, or keep the lines of what is here"
        )


@register("formats", "lerobot_v2")
class LeRobotV2Reader(LeRobotFolder):
    """Reads a LeRobotDataset v2.0 or v2.1 folder. Episodes whose index is missing are no damage:
    their numbers are kept as names."""

    # info.json may list features that were never recorded: they are left out, with a warning
    strict_columns = False

    @classmethod
    def matches(cls, root: Path) -> bool:
        return (root / schema.INFO).is_file() and str(read_version(root)).startswith("v2.")

    def check_version(self) -> None:
        version = self.info.codebase_version
        if not version.startswith("v2."):
            raise DataError(
                f"{self.root / schema.INFO}: codebase_version is {version!r}, this reader needs "
                "v2.0 or v2.1; leave the format out, or read v3.0 as lerobot"
            )

    def read_table(self) -> pd.DataFrame:
        path = self.root / EPISODES
        check_length(self.root)
        rows = read_json_lines(self.root, path, f"it holds the table of episodes: {SOURCE}")
        if not rows:
            raise DataError(f"{path}: has no episodes; copy it from the dataset's source")
        table = pd.DataFrame()
        for name in ("episode_index", "length", "tasks"):
            # object: pandas would turn a list of counts with one gap into floats
            table[name] = pd.Series([row.get(name) for row in rows], dtype=object)
        count_columns(table, ["episode_index", "length"], str(path))
        # one text instead of a list of them is taken, too
        table["tasks"] = [tasks if isinstance(tasks, list) else [tasks] for tasks in table["tasks"]]
        table = table.rename(columns={"episode_index": "source"})
        table = table.sort_values("source", ignore_index=True)
        check_episodes(table, str(path))
        if self.info.total_episodes not in (None, len(table)):
            self.warn(
                f"{self.root / schema.INFO}: total_episodes is {self.info.total_episodes}, "
                f"{EPISODES} has {len(table)}; the latter are read"
            )
        table = without_empty(table, str(path), self.warn)
        # Rows are counted over the files of all episodes; a split then reads its own files only.
        table["row"] = first_frames(table["length"].to_numpy())
        return table

    def read_tasks(self) -> dict[int, str]:
        path = self.root / TASKS
        rows = read_json_lines(self.root, path, f"it holds the instructions: {SOURCE}")
        pairs = [(row.get("task_index"), row.get("task")) for row in rows]
        return collect_tasks(pairs, str(path))

    def episode_files(self) -> list[Path]:
        template = self.info.data_path or DATA_PATH
        return self._paths(template, "data_path")

    def data_paths(self) -> list[Path]:
        # The table has the chosen episodes that are whole by now: only their files are read.
        self._table["row"] = first_frames(self._table["length"].to_numpy())
        return self.episode_files()

    def _paths(self, template: str, key: str, **values: str) -> list[Path]:
        """The file of each episode of the table. Raises DataError if the template is no path within
        the dataset, or leads out of it by a link."""
        where = f"{self.root / schema.INFO}: {key}"
        size = self.info.chunks_size
        sources = self._table["source"].tolist()
        first = fill(
            template,
            where,
            episode_chunk=sources[0] // size,
            episode_index=sources[0],
            **values,
        )
        # the others differ from it in numbers alone
        named_path(self.root, first, f"{key} of info.json")
        root = str(self.root)
        found = []
        for source in sources:
            name = template.format(episode_chunk=source // size, episode_index=source, **values)
            path = Path(root, name)
            # where nothing lies there is no link to follow, and that takes far longer
            if os.path.lexists(f"{root}/{name}"):
                inside(self.root, path)
            found.append(path)
        return found

    def remedy(self, file: Path) -> str:
        return (
            f"one episode is in it, the other {len(self._table) - 1} of {len(self._table)} are "
            "readable: copy the file from the dataset's source, or drop the episode's line from "
            f"{EPISODES}"
        )

    def _check_files(self, rows: np.ndarray) -> None:
        # One file per episode: a file that is too long would shift all later episodes.
        length = self._table["length"].to_numpy()
        wrong = rows != length
        if wrong.any():
            place = int(wrong.argmax())
            raise DataError(
                f"{self._files.paths[place]}: has {rows[place]} rows, {EPISODES} says "
                f"{length[place]} for episode {self._table['source'].iloc[place]}; correct it "
                "there, or restore the file"
            )

    def find_video(self, feature: str) -> list[Segment] | None:
        template = self.info.video_path or VIDEO_PATH
        paths = self._paths(template, "video_path", video_key=feature)
        columns = (self._table["source"].tolist(), self._table["length"].tolist())
        segments = []
        for path, source, length in zip(paths, *columns, strict=True):
            segments.append(Segment(path, source, 0, length, alone=True))
        # No folder at all: the camera was declared and never recorded. One missing file is damage.
        folders = {os.path.dirname(segment.path) for segment in segments}
        if not any(map(os.path.isdir, folders)):
            return None
        return segments
