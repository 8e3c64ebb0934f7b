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

from vla.common.registry import registered
from vla.common.renamed import announce_renamed
from vla.data.episode import Episode, check_finite, decode_image
from vla.data.errors import DataError
from vla.data.format import Columns, DatasetReader, Image, KeyMap
from vla.data.formats.common.files import refuse_archive
from vla.data.formats.common.other_makers import unknown_files
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
    # All formats are imported, since one is recognised only by its own `matches`.
    formats: dict[str, Any] = registered("formats")
    if format is not None and format not in formats:
        raise DataError(f"{root}: no format {format!r}; there are: {', '.join(formats)}")
    name = format or recognised_format(root)
    if name is None:
        raise unknown_files(root, list(formats))
    return formats[name](root, keys)  # type: ignore[no-any-return]


def recognised_format(root: Path) -> str | None:
    """Name of the format that `root` looks like; None if there is none."""
    formats: dict[str, Any] = registered("formats")
    # A format of plain arrays takes nearly everything: those with signs of their own come first.
    names = sorted(formats, key=lambda name: bool(getattr(formats[name], "is_general", False)))
    return next((name for name in names if formats[name].matches(root)), None)


def _open_remote(url: str, format: str | None, keys: KeyMap | None) -> DatasetReader:
    from vla.data.formats.lerobot_parts.remote import open_remote  # needs fsspec

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
        self,
        root: str | Path,
        *,
        format: str | None = None,
        keys: KeyMap | None = None,
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
        """Number of episodes."""
        return len(self.reader.episodes)

    @property
    def num_frames(self) -> int:
        """Number of steps of all episodes."""
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
        # all three or none: a table that has two of them may be of a maker who means other things
        if not {"success", "return", "terminated"} <= set(table):
            # not `columns`: one bad number must not keep the other episodes from being listed
            columns = self.unchecked_columns
            table["success"] = np.logical_or.reduceat(columns.success, starts)
            # in float64, as the writer sums: float32 loses digits in long episodes
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
        return self.unchecked_columns

    @property
    def unchecked_columns(self) -> Columns:
        """The same numbers as they are, with what is NaN or infinite."""
        # Readers give numbers as they are and users check those that they take: one bad episode
        # can then be left out instead of making the dataset unreadable.
        return self.reader.columns()

    @property
    def numbers(self) -> Columns:
        """Former name of `unchecked_columns`."""
        announce_renamed("EpisodeDataset.numbers", "EpisodeDataset.unchecked_columns")
        return self.unchecked_columns

    def check_numbers(self, episodes: Sequence[int] | None = None) -> None:
        """Raises DataError naming the first number of these episodes that is not finite.

        Args:
            episodes: whose actions, states and rewards are looked at; all by default.
        """
        chosen = np.arange(len(self)) if episodes is None else np.asarray(episodes, np.int64)
        not_finite = chosen[~self._finite[chosen]]
        if not len(not_finite):
            return
        episode = int(not_finite[0])
        row = self.reader.episodes.iloc[episode]
        frames = slice(int(row["first_frame"]), int(row["first_frame"] + row["length"]))
        where = f"{self.root}: {self.reader.episode_name(episode)}"
        for name, values, names in self._named_numbers():
            check_finite(where, name, values[frames], names)

    @functools.cached_property
    def _finite(self) -> np.ndarray:
        """bool (episodes,): whether all numbers of an episode are finite."""
        finite_N = np.ones(self.num_frames, bool)
        for _, values, _ in self._named_numbers():
            finite_N &= np.isfinite(values).reshape(self.num_frames, -1).all(1)
        starts = self.reader.episodes["first_frame"].to_numpy()
        return np.asarray(np.logical_and.reduceat(finite_N, starts))

    def _named_numbers(self) -> tuple[tuple[str, np.ndarray, tuple[str, ...]], ...]:
        """(field, values, names of its dimensions)."""
        columns = self.unchecked_columns
        return (
            ("actions", columns.actions, self.spec.action_names),
            ("state", columns.state, self.spec.state_names),
            ("rewards", columns.rewards, ()),
        )

    def images(
        self, camera: str, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Image]]:
        """(frame, image) for the frames [start, stop) of the dataset, streamed."""
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
        """Episode `index`, its images as files if the dataset has files.

        Args:
            images: False leaves the images out, and reads none.

        Raises:
            IndexError: there is no such episode.
            DataError: one of its numbers is not finite.
        """
        if not 0 <= index < self.num_episodes:
            raise IndexError(
                f"episode {index}: {self.root} has episodes 0 to {self.num_episodes - 1}"
            )
        self.check_numbers([index])
        row = self.episodes.iloc[index]
        columns = self.unchecked_columns
        start = int(row["first_frame"])
        stop = start + int(row["length"])
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
        return {
            "root": str(self.root),
            "episodes": self.num_episodes,
            "frames": self.num_frames,
            "hours": self.num_frames / self.spec.control_hz / 3600,
            "bytes": sum(file.stat().st_size for file in _files_of(self.root)),
            "spec": self.spec.to_dict(),
            "tasks": self._task_rows(),
            "actions": self._action_statistics(),
            "metadata": self.metadata,
        }

    def _task_rows(self) -> list[dict[str, Any]]:
        """One row per instruction that has episodes."""
        table = self.episodes
        found = []
        for task_index, instruction in enumerate(self.instructions):
            rows = table[table["task_index"] == task_index]
            if not len(rows):
                continue
            found.append(
                {
                    "instruction": instruction,
                    "episodes": len(rows),
                    "frames": int(rows["length"].sum()),
                    "success_rate": float(rows["success"].mean()),
                    "mean_return": float(rows["return"].mean()),
                }
            )
        return found

    def _action_statistics(self) -> dict[str, dict[str, float]]:
        """Name of each action dimension -> its true statistics."""
        statistics = true_statistics(self.columns.actions)
        found = {}
        for dim, name in enumerate(self.spec.action_names):
            found[name] = {
                key: float(getattr(statistics, key)[dim])
                for key in ("min", "low", "mean", "high", "max", "std")
            }
        return found


def _files_of(root: Path) -> Iterator[Path]:
    """The files of a dataset, without caches and other hidden ones."""
    if root.is_file():
        yield root
    for folder, folders, names in os.walk(root):
        # in place: os.walk goes on into what is left in this list
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _stored(images: Iterator[tuple[int, Image]]) -> np.ndarray | list[bytes]:
    """One camera's images of an episode: files as they are, decoded frames as one array."""
    found = [image for _, image in images]
    if all(isinstance(image, bytes) for image in found):
        return found  # type: ignore[return-value]
    frames = [decode_image(image) if isinstance(image, bytes) else image for image in found]
    return np.stack(frames)
