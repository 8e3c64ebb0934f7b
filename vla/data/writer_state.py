"""What a writer knows of the dataset that it makes, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vla.data import schema
from vla.data.statistics import FeatureStats
from vla.data.storage.video_packets import OpenVideo


@dataclass
class WriterState:
    """The totals of a dataset, and what its newest files hold.

    Attributes:
        episodes, frames: how many there are.
        instructions: row i is task_index i.
        stats: of all episodes.
        data, data_bytes: tables of the newest data file, one per episode, and their size.
        data_file: number of the newest data file.
        rows: of the newest file of the episodes table.
        videos: camera -> its newest video file; empty if images are stored.
        extras: features of the extra columns; None before the first episode, which decides them.
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
    extras: dict[str, dict[str, Any]] | None = None

    def copy(self) -> WriterState:
        """A state that may change without changing this one."""
        # one level deep is enough: tables, rows and videos are never changed in place
        return replace(
            self,
            instructions=[*self.instructions],
            data=[*self.data],
            rows=[*self.rows],
            videos={**self.videos},
        )


def video_pattern(camera: str) -> str:
    """Path of a camera's videos, without their numbers."""
    return schema.VIDEO_PATH.replace("{video_key}", schema.IMAGE_PREFIX + camera)


def numbered(root: Path, pattern: str, number: int) -> Path:
    """The path of a file of a kind: a thousand to a folder, which LeRobot calls a chunk."""
    chunk, file = divmod(number, schema.FILES_PER_CHUNK)
    return root / pattern.format(chunk_index=chunk, file_index=file)


def listed(stats: FeatureStats) -> dict[str, Any]:
    """Statistics of one feature as JSON types."""
    return {name: value.tolist() for name, value in stats.items()}


def stored_stats(row: dict[str, Any]) -> dict[str, FeatureStats]:
    """The statistics in a row of the episodes table, where they lie as `stats/FEATURE/NAME`."""
    result: dict[str, FeatureStats] = {}
    for key, value in row.items():
        if key.startswith("stats/"):
            # from the right, since names of features may hold slashes
            feature, _, name = key.removeprefix("stats/").rpartition("/")
            result.setdefault(feature, {})[name] = np.asarray(value)
    return result
