"""Datasets of which some files are not here: which episodes are whole, and what the others lack.

E: episodes of the table.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from vla.data.errors import DataError, first_bytes, is_lfs_pointer

MISSING = "are missing"
POINTERS = "are pointers of Git LFS"
_POINTER_BYTES = 1024
"""A pointer has about 130; larger files are not looked into."""


def absent(path: Path) -> str | None:
    """Why a file is not here: `MISSING` or `POINTERS`; None if it is."""
    try:
        status = path.stat()
    except OSError:
        return MISSING
    if not stat.S_ISREG(status.st_mode):
        return MISSING
    if status.st_size < _POINTER_BYTES and is_lfs_pointer(first_bytes(path) or b""):
        return POINTERS
    return None


@dataclass(frozen=True)
class Loss:
    """Files of one kind that are not here for one reason.

    Attributes:
        camera: whose videos they are; None if they are data files.
        cause: as `absent` gives it.
        episodes: whose they are, by the dataset's own numbers.
        files: each once, in order.
    """

    camera: str | None
    cause: str
    episodes: tuple[int, ...]
    files: tuple[Path, ...]

    @property
    def what(self) -> str:
        """`videos of episodes 2, 4 (camera front) are missing`"""
        kind = "data files" if self.camera is None else "videos"
        of = f"{kind} of episode{'s' if self.episodes[1:] else ''} {ranges(self.episodes)}"
        return f"{of}{'' if self.camera is None else f' (camera {self.camera})'} {self.cause}"


class Losses:
    """What of a dataset is not here.

    Args:
        root: folder of the dataset.
        sources: (E,), the dataset's own numbers of its episodes.
    """

    def __init__(self, root: Path, sources: Sequence[int]) -> None:
        self.root = root
        self.sources = np.asarray(sources, np.int64)
        self.found: list[Loss] = []
        self.kept = np.ones(len(self.sources), bool)  # (E,)
        self._causes: dict[Path, str | None] = {}  # a file holds many episodes: asked for once

    def causes(self, paths: Sequence[Path]) -> list[str | None]:
        """Why each file is not here."""
        for path in paths:
            if path not in self._causes:
                self._causes[path] = absent(path)
        return [self._causes[path] for path in paths]

    def look(self, paths: Sequence[Path], camera: str | None = None) -> None:
        """Notes which of the episodes' files, one per episode or none at all, are not here."""
        causes = self.causes(paths)
        for cause in (MISSING, POINTERS):
            lost = np.asarray([found == cause for found in causes], bool)
            if not lost.any():  # also if there are no paths
                continue
            files = dict.fromkeys(paths[place] for place in np.flatnonzero(lost).tolist())
            episodes = tuple(self.sources[lost].tolist())
            self.found.append(Loss(camera, cause, episodes, tuple(files)))
            self.kept &= ~lost

    def check_any_whole(self) -> None:
        """Raises DataError that names everything if no episode is whole."""
        if not self.kept.any():
            what = "; ".join(f"{loss.what} ({self._example(loss)})" for loss in self.found)
            remedy = self._remedy(self.found)
            if all(loss.camera is not None for loss in self.found):
                remedy += ", or read the numbers alone: `cameras={}`"
            raise DataError(f"{self.root}: no episode is whole: {what}: {remedy}")

    def sentences(self, cameras: Sequence[str], typed_without: dict[str, str]) -> list[str]:
        """A warning for each loss.

        Args:
            cameras: that are read.
            typed_without: camera -> the keys that read all others.
        """
        found = []
        for loss in self.found:
            remedy = self._remedy([loss])
            if loss.camera is not None and loss.camera in cameras:
                remedy += f", or read all episodes without it: {typed_without[loss.camera]}"
            count = f"{len(loss.episodes)} of {len(self.sources)} episodes"
            found.append(
                f"{self.root}: {loss.what}: these {count} are left out; {remedy} "
                f"({self._example(loss)})"
            )
        return found

    def _remedy(self, losses: Sequence[Loss]) -> str:
        remedies = []
        for cause, remedy in (
            (POINTERS, f"run `git lfs pull` in {self.root}"),
            (MISSING, "copy the files from the dataset's source"),
        ):
            if any(loss.cause == cause for loss in losses):
                remedies.append(remedy)
        return " and ".join(remedies)

    def _example(self, loss: Loss) -> str:
        name = loss.files[0].relative_to(self.root).as_posix()
        return f"{len(loss.files)} files, first {name}" if loss.files[1:] else name


def ranges(numbers: Sequence[int]) -> str:
    """`2, 4, 7-20`, of ascending numbers."""
    if not len(numbers):
        return ""
    edges = [place for place, (a, b) in enumerate(pairwise(numbers), start=1) if b != a + 1]
    runs = zip([0, *edges], [*edges, len(numbers)], strict=True)
    shown = []
    for start, stop in runs:
        first, last = numbers[start], numbers[stop - 1]
        shown.append(f"{first}" if first == last else f"{first}-{last}")
    return ", ".join(shown)
