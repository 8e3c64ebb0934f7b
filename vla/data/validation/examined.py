"""A dataset under examination: opened if that is possible, and in pieces if it is not.

N: frames, E: episodes, S: state dimensions, A: action dimensions.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from vla.common.foreign.plain_files import why_not_plain
from vla.common.progress import ProgressCallback
from vla.common.registry import registered
from vla.data import schema
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.common.dimensions import Part
from vla.data.formats.common.files import check_plain, refuse_archive
from vla.data.formats.common.other_makers import recognised_format
from vla.data.formats.lerobot_parts.info import read_version
from vla.data.formats.lerobot_parts.mapping import keys_of
from vla.data.formats.lerobot_parts.spec import dimension_names
from vla.data.reader import EpisodeDataset
from vla.data.storage.checksums import is_whole
from vla.data.tools.plan import format_of
from vla.data.validation.lerobot_parts import LeRobotParts

ASIDE = ".replaced"
"""Folder of the originals of repaired files."""


@dataclass(frozen=True)
class Numbers:
    """All numbers of a dataset as they are stored, with what is not finite.

    Attributes:
        episode: int64 (N,), index of each frame's episode.
        state: (N, S).
        actions: (N, A).
        rewards: (N,); None if the dataset has none.
        success, terminated: bool (N,); None if the dataset does not say.
        state_names, action_names: of the dimensions.
    """

    episode: np.ndarray
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray | None
    success: np.ndarray | None
    terminated: np.ndarray | None
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]

    @functools.cached_property
    def episode_ranges(self) -> list[tuple[int, int, int]]:
        """(episode, first frame, end) of each run of frames of one episode."""
        # by what stands at the frames, not by the table of episodes, which may be wrong
        edges = (np.flatnonzero(np.diff(self.episode)) + 1).tolist()
        runs = pairwise([0, *edges, len(self.episode)])
        return [(int(self.episode[start]), start, stop) for start, stop in runs if stop > start]


class Examined:
    """What checks look at.

    Args:
        root: folder of the dataset, or its file.
        format, keys: as `EpisodeDataset` takes them.
        deep: whether images are decoded.
        progress: called with (frames decoded, frames in all).

    Attributes:
        dataset: None if it cannot be opened.
        error: why it cannot.
        format: its name; None if the dataset is of none.

    Raises:
        DataError: there is no such folder, it is an archive, or no format of that name.
    """

    def __init__(
        self,
        root: Path,
        format: str | None,
        keys: KeyMap | None,
        *,
        deep: bool,
        progress: ProgressCallback | None = None,
    ) -> None:
        if not root.exists():
            raise DataError(f"{root}: no such folder; correct the path")
        check_plain(root)
        refuse_archive(root)
        formats = registered("formats")
        if format is not None and format not in formats:
            raise DataError(f"{root}: no format {format!r}; there are: {', '.join(formats)}")
        self.root = root
        self.keys = keys
        self.deep = deep
        self.progress = progress
        self.dataset: EpisodeDataset | None = None
        self.error: DataError | None = None
        # Not raised: what can be read without opening is examined all the same.
        try:
            self.dataset = EpisodeDataset(root, format=format, keys=keys)
        except DataError as error:
            self.error = error
        self.format = format
        if self.dataset is not None:
            self.format = format_of(self.dataset)
        elif format is None:
            self.format = recognised_format(root)
        # Without info.json no format matches, and with a damaged one the wrong version; tables and
        # data are worth a look all the same.
        if format is None and self.dataset is None and read_version(root) is None:
            if (root / "meta/episodes.jsonl").exists():
                self.format = "lerobot_v2"
            elif self.format is None and (root / "meta").is_dir():
                self.format = "lerobot"

    @functools.cached_property
    def files(self) -> list[Path]:
        """Every file and link below the root that may be opened, but for what lies in hidden
        folders."""
        return [path for path in self._everything if not why_not_plain(path)]

    @functools.cached_property
    def odd_files(self) -> dict[Path, str]:
        """Pipes and devices below the root -> what they are: opening one would wait for ever."""
        reasons = {path: why_not_plain(path) for path in self._everything}
        return {path: reason for path, reason in reasons.items() if reason}

    @functools.cached_property
    def _everything(self) -> list[Path]:
        if self.root.is_file():
            return [self.root]
        found = []
        for folder, folders, names in os.walk(self.root):
            here = Path(folder)
            # A link to a folder counts as a file, and is not followed: it may lead in a circle.
            links = [name for name in folders if (here / name).is_symlink()]
            inner = [name for name in folders if name not in links]
            folders[:] = sorted(name for name in inner if not name.startswith("."))
            seen = sorted([*names, *links])
            found += [here / name for name in seen if not name.startswith(".")]
        return found

    def name(self, path: Path) -> str:
        """A file's path within the dataset."""
        return path.name if path == self.root else path.relative_to(self.root).as_posix()

    @functools.cached_property
    def is_ours(self) -> bool:
        """Whether the dataset was written here, with checksums in its files."""
        # any of them: one may have been replaced since
        small = (schema.INFO, schema.SPEC, schema.METADATA)
        return any(_has_checksum(self.root / name) for name in small)

    @functools.cached_property
    def lerobot(self) -> LeRobotParts | None:
        """The pieces of a LeRobot dataset; None for other formats."""
        return LeRobotParts(self.root) if self.format in ("lerobot", "lerobot_v2") else None

    @functools.cached_property
    def numbers(self) -> Numbers | None:
        """None if they cannot be read at all."""
        if self.lerobot is not None:
            return _of_parts(self.lerobot, self.keys)
        if self.dataset is None:
            return None
        reader = self.dataset.reader
        try:
            columns = reader.columns()
        except DataError:  # the check `opens` says so
            return None
        lengths = reader.episodes["length"].to_numpy()

        def recorded(name: str, values: np.ndarray) -> np.ndarray | None:
            # readers give zeros for what the dataset does not have
            return values if name in reader.recorded and values.any() else None

        return Numbers(
            episode=np.repeat(np.arange(len(lengths)), lengths),
            state=columns.state,
            actions=columns.actions,
            rewards=recorded("rewards", columns.rewards),
            success=recorded("success", columns.success),
            terminated=recorded("terminated", columns.terminated),
            state_names=reader.spec.state_names,
            action_names=reader.spec.action_names,
        )


def _has_checksum(path: Path) -> bool:
    try:
        return path.is_file() and is_whole(path) is not None
    except OSError:
        return False


def _of_parts(parts: LeRobotParts, keys: KeyMap | None) -> Numbers | None:
    mapping = parts.mapping(keys or KeyMap())
    frames = parts.frames
    if mapping is None:
        return None
    if not {*keys_of(mapping.action), *keys_of(mapping.state), "episode_index"} <= frames.keys():
        return None
    episode = frames["episode_index"][:, 0]
    kept = parts.committed(episode)

    def joined(parts: list[Part]) -> np.ndarray:
        columns = [np.zeros((len(episode), 0))]
        columns += [frames[part.key][:, list(part.dims)] for part in parts]
        return np.concatenate(columns, axis=1)[kept]

    def single(name: str | None) -> np.ndarray | None:
        return frames[name][kept, 0] if name is not None and name in frames else None

    success = single(mapping.success)
    terminated = single(schema.TERMINATED)
    index = episode[kept]
    return Numbers(
        episode=np.where(np.isfinite(index), index, -1).astype(np.int64),
        state=joined(mapping.state),
        actions=joined(mapping.action),
        rewards=single(mapping.reward),
        success=None if success is None else success > 0,
        terminated=None if terminated is None else terminated > 0,
        state_names=tuple(dimension_names(mapping.state)),
        action_names=tuple(dimension_names(mapping.action)),
    )
