"""A dataset of episodes on disk, whatever its format.

N: frames of the dataset, L: steps of an episode.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vla.config import registered
from vla.data.episode import Episode, check_finite, decode_png
from vla.data.errors import DataError
from vla.data.format import Columns, DatasetReader, KeyMap, Picture
from vla.data.formats.common.files import refuse_archive
from vla.data.statistics import true_statistics
from vla.data.storage.remote_files import as_url
from vla.types import Spec

_READER_COLUMNS = (
    "episode_index",
    "length",
    "first_frame",
    "task_index",
    "success",
    "return",
    "terminated",
    "info",
)


def _open(root: Path, format: str | None, keys: KeyMap | None) -> DatasetReader:
    if not root.exists():
        raise DataError(
            f"{root}: no such folder; make the dataset with `vla collect`, or correct the path"
        )
    refuse_archive(root)
    formats: dict[str, Any] = registered("formats")
    if format is not None and format not in formats:
        raise DataError(f"{root}: no format {format!r}; there are: {', '.join(formats)}")
    for name, reader in formats.items():
        if name == format or (format is None and reader.matches(root)):
            return reader(root, keys)  # type: ignore[no-any-return]
    raise DataError(
        f"{root}: no dataset of a known format ({', '.join(formats)}) is here; expected "
        "meta/info.json"
    )


def _open_remote(url: str, format: str | None, keys: KeyMap | None) -> DatasetReader:
    from vla.data.formats.lerobot_parts.remote import open_remote

    return open_remote(url, format, keys)


class EpisodeDataset:
    """Reads a dataset of any format. Opening costs milliseconds: images are read when they are
    asked for.

    Args:
        root: folder of the dataset, or its file; or a URL such as `hf://datasets/USER/NAME`, of
            which tables and numbers are fetched at once and images when they are asked for (see
            `vla.data.storage.remote_cache`).
        format: name of its format (`vla list formats`); found from what lies there by default.
        keys: what is read as what; by the format's conventions by default.

    Raises:
        DataError: the folder is missing, holds no episodes, is damaged or contradicts itself.
    """

    def __init__(
        self, root: str | Path, *, format: str | None = None, keys: KeyMap | None = None
    ) -> None:
        url = as_url(root)
        self.reader = (
            _open(Path(root), format, keys) if url is None else _open_remote(url, format, keys)
        )
        self.root = Path(root) if url is None else self.reader.root
        self.spec: Spec = self.reader.spec
        self.instructions: list[str] = self.reader.instructions
        self.metadata: dict[str, Any] = self.reader.metadata
        self._episodes: pd.DataFrame | None = None

    @property
    def warnings(self) -> list[str]:
        """Sentences about what is odd in the dataset but can be read; grows while numbers and
        images are read."""
        return list(self.reader.warnings)

    @property
    def num_episodes(self) -> int:
        return len(self.reader.episodes)

    @property
    def num_frames(self) -> int:
        return int(self.reader.episodes["length"].sum())

    @property
    def episodes(self) -> pd.DataFrame:
        """One row per episode: episode_index, length, first_frame, task_index, success, return,
        terminated, info."""
        if self._episodes is None:
            self._episodes = self._complete(self.reader.episodes)
        return self._episodes

    def _complete(self, table: pd.DataFrame) -> pd.DataFrame:
        """Adds what other makers do not store, computed from the frames."""
        table = table.copy()
        starts = table["first_frame"].to_numpy()
        if not {"success", "return", "terminated"} <= set(table):
            columns = self.numbers
            table["success"] = np.logical_or.reduceat(columns.success, starts)
            table["return"] = np.add.reduceat(columns.rewards.astype(np.float64), starts)
            table["terminated"] = np.logical_or.reduceat(columns.terminated, starts)
        if "info" not in table:
            table["info"] = "{}"
        return table[list(_READER_COLUMNS)]

    @property
    def columns(self) -> Columns:
        """All numbers of the dataset, read once. Raises DataError if an action, state or reward is
        not finite."""
        self.check_numbers()
        return self.numbers

    @property
    def numbers(self) -> Columns:
        """The same as they are, NaN among them."""
        return self.reader.columns()

    def check_numbers(self, episodes: Sequence[int] | None = None) -> None:
        """Raises DataError naming the first action, state or reward of these episodes (all by
        default) that is not finite."""
        chosen = np.arange(len(self)) if episodes is None else np.asarray(episodes, np.int64)
        for episode in chosen[~self._finite[chosen]][:1].tolist():
            row, where = (
                self.reader.episodes.iloc[episode],
                f"{self.root}: {self.reader.episode_name(episode)}",
            )
            frames = slice(int(row["first_frame"]), int(row["first_frame"] + row["length"]))
            for name, values, names in self._named_numbers():
                check_finite(where, name, values[frames], names)

    @functools.cached_property
    def _finite(self) -> np.ndarray:
        """bool (episodes,): whether all numbers of an episode are finite."""
        frames = np.ones(self.num_frames, bool)
        for _, values, _ in self._named_numbers():
            frames &= np.isfinite(values).reshape(self.num_frames, -1).all(1)
        return np.asarray(
            np.logical_and.reduceat(frames, self.reader.episodes["first_frame"].to_numpy())
        )

    def _named_numbers(self) -> tuple[tuple[str, np.ndarray, tuple[str, ...]], ...]:
        """(field, values, names of its dimensions)."""
        numbers, spec = self.numbers, self.spec
        return (
            ("actions", numbers.actions, spec.action_names),
            ("state", numbers.state, spec.state_names),
            ("rewards", numbers.rewards, ()),
        )

    def images(
        self, camera: str, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Picture]]:
        """(frame, picture) for the frames [start, stop) of the dataset, streamed."""
        if camera not in self.spec.cameras:
            raise KeyError(
                f"no camera {camera!r}; the dataset has: {', '.join(self.spec.cameras) or 'none'}"
            )
        return self.reader.images(camera, start, self.num_frames if stop is None else stop)

    def fingerprint(self) -> str:
        """Changes whenever the images may have changed."""
        return self.reader.fingerprint()

    def __len__(self) -> int:
        return self.num_episodes

    def episode(self, index: int, *, images: bool = True) -> Episode:
        """Episode `index`, its images as files if the dataset has files, or with `images` False
        without them. Raises IndexError, and DataError where one of its numbers is not finite."""
        if not 0 <= index < self.num_episodes:
            raise IndexError(
                f"episode {index}: {self.root} has episodes 0 to {self.num_episodes - 1}"
            )
        self.check_numbers([index])
        row, columns = self.episodes.iloc[index], self.numbers
        start, stop = int(row["first_frame"]), int(row["first_frame"] + row["length"])
        cameras = self.spec.cameras if images else ()
        return Episode(
            images={camera: _stored(self.images(camera, start, stop)) for camera in cameras},
            state=columns.state[start:stop],
            actions=columns.actions[start:stop],
            rewards=columns.rewards[start:stop],
            success=columns.success[start:stop],
            terminated=bool(row["terminated"]),
            instruction=self.instructions[int(row["task_index"])],
            info=json.loads(row["info"]),
        )

    def info(self) -> dict[str, Any]:
        """What `vla data info` prints: sizes, spec, a row per task, true statistics of actions;
        JSON types."""
        table = self.episodes
        tasks = []
        for task_index, instruction in enumerate(self.instructions):
            rows = table[table["task_index"] == task_index]
            if len(rows):
                tasks.append(
                    {
                        "instruction": instruction,
                        "episodes": len(rows),
                        "frames": int(rows["length"].sum()),
                        "success_rate": float(rows["success"].mean()),
                        "mean_return": float(rows["return"].mean()),
                    }
                )
        statistics = true_statistics(self.columns.actions)
        return {
            "root": str(self.root),
            "episodes": self.num_episodes,
            "frames": self.num_frames,
            "hours": self.num_frames / self.spec.control_hz / 3600,
            "bytes": sum(file.stat().st_size for file in _files_of(self.root)),
            "spec": self.spec.to_dict(),
            "tasks": tasks,
            "actions": {
                name: {
                    key: float(getattr(statistics, key)[dim])
                    for key in ("min", "low", "mean", "high", "max", "std")
                }
                for dim, name in enumerate(self.spec.action_names)
            },
            "metadata": self.metadata,
        }


def _files_of(root: Path) -> Iterator[Path]:
    """The files of a dataset, without caches and other hidden ones."""
    if root.is_file():
        yield root
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _stored(pictures: Iterator[tuple[int, Picture]]) -> np.ndarray | list[bytes]:
    """One camera's pictures of an episode: files as they are, decoded frames as one array."""
    found = [picture for _, picture in pictures]
    if all(isinstance(picture, bytes) for picture in found):
        return found  # type: ignore[return-value]
    return np.stack(
        [decode_png(picture) if isinstance(picture, bytes) else picture for picture in found]
    )
