"""A dataset of episodes on disk, whatever its format.

N: frames of the dataset, L: steps of an episode.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from vla.common.foreign.texts import why_no_instruction
from vla.common.registry import registered
from vla.common.renamed import announce_renamed
from vla.data.episode import Episode, check_finite, decode_image, read_info
from vla.data.errors import DataError, DataWarning
from vla.data.format import Columns, DatasetReader, Image, KeyMap
from vla.data.formats.common.files import check_plain, files_of, refuse_archive
from vla.data.formats.common.other_makers import recognised_format, unknown_files
from vla.data.select import Episodes, chosen_episodes, finite_remedy
from vla.data.statistics import true_statistics
from vla.data.storage.image_transforms import ImageTransforms
from vla.data.storage.remote_files import as_url
from vla.data.storage.resizing import ImageResizing
from vla.types import ImageSize, Spec

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


# a setting such as `cameras={}` or state=[qpos]: what a reader's message asks to be typed
_KEYS = "|".join(KeyMap.model_fields)
_SETTING = re.compile(rf"(?<![\w./])(?:keys\.)?(?=(?:{_KEYS})(?:\.\w+)?=\S)")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def dataset_name(root: Path) -> str:
    """The last part of a path; with the part before it if the last is a version number, as TFDS has
    it."""
    # not the whole path: what is recorded must be the same on another machine
    root = Path(os.path.abspath(root))
    versioned = re.fullmatch(r"v?\d+(\.\d+)*", root.name) and root.parent.name
    return f"{root.parent.name}/{root.name}" if versioned else root.name


def _open(root: Path, format: str | None, keys: KeyMap | None) -> DatasetReader:
    if not root.exists():
        raise DataError(f"{root}: no such folder; {_where_else(root)}")
    check_plain(root)
    refuse_archive(root)
    # All formats are imported, since one is recognised only by its own `matches`.
    formats: dict[str, Any] = registered("formats")
    if format is not None and format not in formats:
        raise DataError(f"{root}: no format {format!r}; there are: {', '.join(formats)}")
    name = format or recognised_format(root)
    if name is None:
        raise unknown_files(root, list(formats))
    return formats[name](root, keys).with_spec_keys(keys)  # type: ignore[no-any-return]


def _where_else(root: Path) -> str:
    """What to do about a path where nothing lies."""
    made = "make the dataset with `vla collect`, or correct the path"
    # USER/NAME is how the Hugging Face hub calls a dataset
    if not _REPOSITORY.fullmatch(str(root)):
        return made
    hub = f"`hf://datasets/{root}` reads the dataset of that name on the Hugging Face hub"
    # beside other folders it is more likely a misspelt one
    return f"{made}; {hub}" if root.parent.is_dir() else f"{hub}; else {made}"


def _open_remote(url: str, format: str | None, keys: KeyMap | None) -> DatasetReader:
    from vla.data.formats.lerobot_parts.remote import open_remote  # needs fsspec

    return open_remote(url, format, keys).with_spec_keys(keys)


class EpisodeDataset:
    """Reads a dataset of any format. Opening costs milliseconds: images are read when they are
    asked for.

    Args:
        root: folder of the dataset, or its file; or a URL such as `hf://datasets/USER/NAME`, of
            which tables and numbers are fetched at once and images when they are asked for (see
            `vla.data.storage.remote_cache`).
        format: name of its format (`vla list formats`); found from what lies there by default.
        keys: what is read as what; by the format's conventions by default.
        keys_at: what stands before a key where it is typed, for example `data.keys.`; messages
            name keys so.

    Raises:
        DataError: the folder is missing, holds no episodes, is damaged or contradicts itself.

    Attributes:
        name: what messages call it: see `dataset_name`.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        format: str | None = None,
        keys: KeyMap | None = None,
        keys_at: str = "",
    ) -> None:
        url = as_url(root)
        self._keys_at = keys_at
        self._warned: set[str] = set()
        self._added: list[str] = []
        with self._naming_keys():
            self.reader = (
                _open(Path(root), format, keys) if url is None else _open_remote(url, format, keys)
            )
        self.root = Path(root) if url is None else self.reader.root
        chosen = keys or self.reader.keys or KeyMap()
        self._transforms = ImageTransforms(self.root, self.reader.spec, chosen)
        self.spec: Spec = self._transforms.spec(self.reader.spec)
        self.name = dataset_name(Path(root))
        self.instructions: list[str] = self.reader.instructions
        for number, text in enumerate(self.instructions):
            problem = why_no_instruction(text)
            if problem:
                raise DataError(f"{self.root}: instruction {number} {problem}")
        self.metadata: dict[str, Any] = self.reader.metadata
        self._episodes: pd.DataFrame | None = None
        self._resizing = ImageResizing(self.root, self.spec, {})

    def resized(self, sizes: Mapping[str, ImageSize]) -> EpisodeDataset:
        """The same dataset with the images of these cameras at another size; reads nothing yet.

        All that is made of it (frame caches, streams, copies) holds images of that size. Raises
        KeyError if there is no such camera.
        """
        made = copy.copy(self)
        made._resizing = ImageResizing(self.root, self.spec, sizes, before=self._resizing)
        made.spec = made._resizing.spec
        return made

    @property
    def image_sizes(self) -> Mapping[str, ImageSize]:
        """Camera -> size of its images, for those that are `resized`."""
        return self._resizing.sizes

    @property
    def warnings(self) -> list[str]:
        """Sentences about what is odd in the dataset but can be read; grows while numbers and
        images are read."""
        return [self._with_typed_keys(text) for text in (*self.reader.warnings, *self._added)]

    def add_warning(self, text: str) -> None:
        """Adds what is odd about the way in which these data are used."""
        self._added.append(text)

    def issue_warnings(self) -> None:
        """Issues what has come to `warnings` since the last call, each as a DataWarning."""
        for text in self.warnings:
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(DataWarning(f"{self.name}: {text}"), stacklevel=2)

    @property
    def recorded(self) -> frozenset[str]:
        """Which of `rewards`, `success` and `terminated` the dataset says itself."""
        made = self.metadata.get("made")
        # a dataset that was made of one that does not say does not say either
        unrecorded = made.get("unrecorded", ()) if isinstance(made, dict) else ()
        return self.reader.recorded.difference(unrecorded)

    def how_to_label(self, what: Literal["success", "rewards"]) -> str:
        """That the dataset does not record `what`, and what to do about it, for a message."""
        at = self._keys_at
        if what == "rewards":
            return (
                f"rewards are not recorded; name their key (`{at}reward=KEY`), or give them in a "
                "file (`vla data label`)"
            )
        by_reward = ""
        if "rewards" in self.recorded:
            by_reward = f"take the reward for it (`{at}success=rewards`), "
        return (
            f"success is not recorded; {by_reward}name its key (`{at}success=KEY`), or give it in "
            "a file (`vla data label`)"
        )

    def require_recorded(self, what: Literal["success", "rewards"], needed_by: str) -> None:
        """Raises DataError if the dataset does not record `what`.

        Args:
            needed_by: what needs it: an option, for the message.
        """
        if what not in self.recorded:
            raise DataError(f"{self.root}: {needed_by} needs {what}, but {self.how_to_label(what)}")

    def mean_of(
        self, column: Literal["success", "return", "terminated"], rows: pd.DataFrame
    ) -> float | None:
        """Mean of a column of some rows of `episodes`; None if the dataset does not record it."""
        recorded = "rewards" if column == "return" else column
        return float(rows[column].mean()) if recorded in self.recorded else None

    def _with_typed_keys(self, text: str) -> str:
        """A reader's message, with keys as they are typed where the dataset was named."""
        return _SETTING.sub(lambda _: self._keys_at, text)

    @contextlib.contextmanager
    def _naming_keys(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            text = self._with_typed_keys(str(error))
            if text == str(error):
                raise
            raise DataError(text) from error

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
        terminated, info. `task_index` is that of the first step (see `task_of_frames`)."""
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

    @functools.cached_property
    def task_of_frames(self) -> np.ndarray:
        """Which of `instructions` each frame follows, int64 (N,)."""
        if self.reader.frame_tasks is not None:
            return np.asarray(self.reader.frame_tasks, np.int64)
        table = self.reader.episodes
        return np.repeat(table["task_index"].to_numpy(np.int64), table["length"].to_numpy())

    @functools.cached_property
    def held_tasks(self) -> pd.DataFrame:
        """One row per episode and instruction that it holds: episode_index, task_index, frames."""
        lengths = self.reader.episodes["length"].to_numpy()
        episode_N = np.repeat(np.arange(len(lengths)), lengths)
        # both in one number: unique rows of two columns would be sorted as bytes
        pairs, frames = np.unique(
            episode_N * len(self.instructions) + self.task_of_frames, return_counts=True
        )
        episode, task = np.divmod(pairs, len(self.instructions))
        return pd.DataFrame({"episode_index": episode, "task_index": task, "frames": frames})

    def instruction_starts(self, index: int) -> list[tuple[int, str]]:
        """(first step, text) of each instruction of episode `index`, in their order; one if it
        does not change."""
        row = self.reader.episodes.iloc[index]
        first = int(row["first_frame"])
        tasks = self.task_of_frames[first : first + int(row["length"])]
        starts = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist()]
        return [(start, self.instructions[tasks[start]]) for start in starts]

    @property
    def num_changing(self) -> int:
        """In how many episodes the instruction changes."""
        return int((self.held_tasks.groupby("episode_index").size() > 1).sum())

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
        with self._naming_keys():
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
        remedy = finite_remedy(self.root, self.episode_numbers[~self._finite].tolist(), len(self))
        for name, values, names in self._named_numbers():
            check_finite(where, name, values[frames], names, remedy)

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

    @property
    def episode_numbers(self) -> np.ndarray:
        """int64 (episodes,): what the dataset itself calls its episodes, ascending. Elsewhere an
        episode goes by its place among those that can be read."""
        numbers = self.reader.episode_numbers
        return np.arange(self.num_episodes) if numbers is None else numbers

    def chosen_episodes(
        self,
        episodes: Episodes | None,
        where: str | None = None,
        *,
        is_dropped: bool = False,
    ) -> list[int]:
        """The places of episodes that are chosen by the dataset's own numbers; see
        `vla.data.select.chosen_episodes`."""
        return chosen_episodes(
            episodes,
            self.episode_numbers.tolist(),
            where or str(self.root),
            missing=self.reader.missing_episodes,
            is_dropped=is_dropped,
        )

    def images(
        self, camera: str, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Image]]:
        """(frame, image) for the frames [start, stop) of the dataset, streamed; turned as the keys
        say."""
        if camera not in self.spec.cameras:
            raise KeyError(
                f"no camera {camera!r}; the dataset has: {', '.join(self.spec.cameras) or 'none'}"
            )
        return self._images(camera, start, self.num_frames if stop is None else stop)

    def _images(self, camera: str, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        # a generator of its own: `images` looks for the camera at once
        with self._naming_keys():
            turned = self._transforms.apply(camera, self.reader.images(camera, start, stop))
            yield from self._resizing.apply(camera, turned)

    def fingerprint(self) -> str:
        """Changes whenever the images may have changed; the same at every size."""
        return self.reader.fingerprint() + self._transforms.fingerprint()

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
            info=read_info(row["info"]),
            instructions=self._changing_instructions(start, stop),
            extras={name: values[start:stop] for name, values in columns.extras.items()},
        )

    def _changing_instructions(self, start: int, stop: int) -> list[str] | None:
        """The texts of an episode's steps; None if they are all the same."""
        tasks = self.task_of_frames[start:stop]
        if (tasks == tasks[0]).all():
            return None
        return [self.instructions[task] for task in tasks.tolist()]

    def info(self) -> dict[str, Any]:
        """What `vla data info` prints: sizes, spec, a row per task, true statistics of actions;
        JSON types, null for what the dataset does not record."""
        return {
            "root": str(self.root),
            "episodes": self.num_episodes,
            "frames": self.num_frames,
            "hours": self.num_frames / self.spec.control_hz / 3600,
            "bytes": sum(file.stat().st_size for file in files_of(self.root)),
            "spec": self.spec.to_dict(),
            "tasks": self._task_rows(),
            "changing_episodes": self.num_changing,
            "actions": self._action_statistics(),
            "metadata": self.metadata,
        }

    def _task_rows(self) -> list[dict[str, Any]]:
        """One row per instruction that has frames.

        An episode counts for each instruction that it holds, a frame for its own alone.
        """
        table = self.episodes
        found = []
        for task_index, held in self.held_tasks.groupby("task_index", sort=True):
            rows = table.iloc[held["episode_index"].to_numpy()]
            found.append(
                {
                    "instruction": self.instructions[int(str(task_index))],
                    "episodes": len(rows),
                    "frames": int(held["frames"].sum()),
                    "success_rate": self.mean_of("success", rows),
                    "mean_return": self.mean_of("return", rows),
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


def _stored(images: Iterator[tuple[int, Image]]) -> np.ndarray | list[bytes]:
    """One camera's images of an episode: files as they are, decoded frames as one array."""
    found = [image for _, image in images]
    if all(isinstance(image, bytes) for image in found):
        return found  # type: ignore[return-value]
    frames = [decode_image(image) if isinstance(image, bytes) else image for image in found]
    return np.stack(frames)
