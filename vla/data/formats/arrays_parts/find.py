"""The containers of a dataset, and the episodes in them.

L: rows of a container that holds all episodes one after another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.arrays_parts.container import (
    Array,
    Container,
    EpisodeArrays,
    OpenContainer,
)
from vla.data.formats.arrays_parts.frame_files import BOUNDS, FrameFiles, episode_bounds
from vla.data.formats.arrays_parts.hdf5_file import SUFFIXES, Hdf5File
from vla.data.formats.arrays_parts.left_out import hide
from vla.data.formats.arrays_parts.npz_file import SUFFIX, NpzFile
from vla.data.formats.arrays_parts.roles import ACTIONS, ENDS, PREFIXES, TIME_LIMITS, group_of
from vla.data.formats.arrays_parts.words import of_episode, side_files
from vla.data.formats.arrays_parts.zarr_file import ZarrStore, is_zarr
from vla.data.formats.common.files import inside
from vla.data.formats.common.names import natural

_EPISODE_ENDS = "episode_ends"
_LISTED = 20  # arrays that an error lists


def container_of(path: Path) -> Container | None:
    """What holds arrays at `path`; None if nothing does."""
    suffix = path.suffix.lower()
    if is_zarr(path):
        return ZarrStore(path)
    if path.is_dir():
        return FrameFiles(path) if (path / BOUNDS).is_file() else None
    if suffix == SUFFIX:
        return NpzFile(path)
    return Hdf5File(path) if suffix in SUFFIXES else None


def container_paths(root: Path) -> Iterator[Path]:
    """Paths of all containers at or below `root`, numbers in their names in order; hidden folders
    and links to folders are left out."""
    if _is_container(root):
        yield root
        return
    if not root.is_dir():
        return
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders.sort(key=natural)
        for name in list(folders):
            # what is in a container are its parts
            if _is_container(here / name):
                folders.remove(name)
                yield here / name
            elif name.startswith("."):
                folders.remove(name)
        for name in sorted(files, key=natural):
            if not name.startswith(".") and _is_container(here / name):
                yield here / name


def _is_container(path: Path) -> bool:
    if path.suffix.lower() in (SUFFIX, *SUFFIXES) and path.is_file():
        return True
    return is_zarr(path) or (path.is_dir() and (path / BOUNDS).is_file())


def find_episodes(root: Path, keys: KeyMap, warnings: list[str]) -> list[EpisodeArrays]:
    """All episodes at `root`, of one part if the keys name a split. Raises DataError."""
    paths = sorted(container_paths(root), key=lambda path: natural(str(path.relative_to(root))))
    paths = _of_split(root, paths, keys.split)
    episodes: list[EpisodeArrays] = []
    without: list[str] = []  # containers without episodes
    lacking: DataError | None = None
    for path in paths:
        container = container_of(inside(root, path))
        assert container is not None
        name = "" if path == root else path.relative_to(root).as_posix()
        try:
            episodes += _Divided(container, name, keys, warnings).episodes(root)
        except _NoActions as error:
            without.append(name)
            lacking = lacking or error
        except DataError as error:
            if path == root or is_zarr(path) or path.is_dir():
                raise
            # a recorder that was stopped leaves half a file, of which there is no other copy
            raise DataError(f"{error}, or leave it out (`{hide(path)}`)") from error
    if not episodes and lacking is not None:
        raise lacking
    if without:
        warnings.append(f"files without actions are left out: {', '.join(without[:5])}")
    return episodes


def _of_split(root: Path, paths: Sequence[Path], split: str | None) -> list[Path]:
    """Those below the folder of this name."""
    if split is None:
        return list(paths)
    folders = dict.fromkeys(path.relative_to(root).parts[:1] for path in paths)
    names = [parts[0] for parts in folders if parts and (root / parts[0]).is_dir()]
    if split not in names:
        raise DataError(
            f"{root}: no folder {split!r} to read as split; it has: {', '.join(names) or 'none'}"
        )
    return [path for path in paths if path.is_relative_to(root / split)]


class _NoActions(DataError):
    """A container in which nothing is named as actions are."""


class _Divided:
    """The episodes of one container."""

    def __init__(
        self,
        container: Container,
        name: str,
        keys: KeyMap,
        warnings: list[str],
    ) -> None:
        self.container = container
        self.name = name
        self.keys = keys
        self.warnings = warnings

    def episodes(self, root: Path) -> list[EpisodeArrays]:
        described = side_files(root, self.container.path, self.warnings)
        with self.container.opened() as opened:
            arrays = opened.arrays()
            groups = self._groups(arrays)
            found = []
            for group in groups:
                below = {
                    path.removeprefix(group): array
                    for path, array in arrays.items()
                    if path.startswith(group)
                }
                attributes = described | opened.attributes(group.rstrip("/"))
                for piece in self._pieces(opened, arrays, below, group, len(groups) == 1):
                    found.append(self._episode(piece, group, len(groups) > 1, attributes))
        return found

    def _episode(
        self,
        piece: tuple[Mapping[str, Array], int, int | None],
        group: str,
        several: bool,
        attributes: dict[str, Any],
    ) -> EpisodeArrays:
        arrays, first_row, number = piece
        own = group.rstrip("/") if several or not self.name else ""
        if number is not None:
            own = str(number)
        path = Path(self.name)
        name = ":".join(filter(None, (self.name, own))) or self.container.path.stem
        names = (path.stem, path.name, own, own.rpartition("/")[2], name)
        return EpisodeArrays(name, self.container, arrays, first_row, of_episode(attributes, names))

    def _groups(self, arrays: Mapping[str, Array]) -> list[str]:
        """The groups that hold actions, each with a slash behind it; the outermost of each."""
        if self.keys.action:
            found = self._holding_actions(arrays)
        else:
            found = [group_of(path, ACTIONS) for path in arrays]
        groups = sorted({group for group in found if group is not None}, key=natural)
        outermost: list[str] = []
        for group in groups:
            if not any(group.startswith(above) for above in outermost):
                outermost.append(group)
        if outermost:
            return outermost
        raise self._no_actions(arrays)

    def _holding_actions(self, arrays: Mapping[str, Array]) -> list[str | None]:
        """The groups below which the first key of the actions lies."""
        entry = (self.keys.action or [""])[0].partition("[")[0]
        found = _holding(arrays, entry)
        # a dimension by its name: those of u are u_0, u_1, ..., those of actions action_0, ...
        stem = re.sub(r"_\d+$", "", entry)
        if not found:
            found = _holding(arrays, stem)
        if not found and stem == "action":
            found = [group_of(path, ACTIONS) for path in arrays]
        return found

    def _no_actions(self, arrays: Mapping[str, Array]) -> _NoActions:
        numeric = [path for path, array in arrays.items() if array.is_numeric]
        listed = [f"{path} {arrays[path].shape}" for path in numeric[:_LISTED]]
        wanted = "action, actions or rel_actions"
        if self.keys.action:
            wanted = self.keys.action[0]
        example = ""
        plain = [path for path in numeric if len(arrays[path].shape) <= 2]
        if plain:
            example = f"; name what is read, for example `action=[{plain[0]}]`"
        return _NoActions(
            f"{self.container.path}: no array is named {wanted}; it has: "
            f"{', '.join(listed) or 'no numbers'}{example}"
        )

    # --- several episodes in arrays that hold all of them -----------------------------------------

    def _pieces(
        self,
        opened: OpenContainer,
        arrays: Mapping[str, Array],
        below: Mapping[str, Array],
        group: str,
        is_only: bool,
    ) -> Iterator[tuple[Mapping[str, Array], int, int | None]]:
        """(arrays, first row, number) of each episode; number None if there is but one."""
        bounds = self._bounds(opened, arrays, below, group) if is_only else None
        if bounds is None:
            yield below, 0, None
            return
        rows = self._rows(below)
        shared = {key: array for key, array in below.items() if array.shape[:1] == (rows,)}
        for number, (first, stop) in enumerate(bounds):
            if stop > first:
                own = {key: array.of_episode(stop - first) for key, array in shared.items()}
                yield own, first, number

    def _rows(self, below: Mapping[str, Array]) -> int:
        """How many actions there are."""
        names: tuple[str, ...] = ACTIONS
        if self.keys.action:
            names = tuple(entry.partition("[")[0] for entry in self.keys.action)
        for path, array in below.items():
            if group_of(path, names) is not None or path.endswith(names):
                return array.rows
        return max(array.rows for array in below.values())

    def _bounds(
        self,
        opened: OpenContainer,
        arrays: Mapping[str, Array],
        below: Mapping[str, Array],
        group: str,
    ) -> list[tuple[int, int]] | None:
        if isinstance(self.container, FrameFiles):
            self._warn_of_pickle(self.container.path)
            return episode_bounds(self.container.path)
        named = [path for path in arrays if path.rpartition("/")[2] == _EPISODE_ENDS]
        rows = self._rows(below)
        if named:
            array = arrays[named[0]]
            ends = np.asarray(opened.read(array, 0, array.rows)).astype(np.int64)
            starts = np.concatenate([[0], ends[:-1]])
            if not len(ends) or (ends < starts).any() or ends[-1] != rows:
                raise DataError(
                    f"{self.container.path}: {named[0]} are {ends[:3].tolist()} ... "
                    f"{ends[-1:].tolist()}, expected rising numbers up to {rows}, the rows of the "
                    "actions; copy it from the dataset's source"
                )
            return list(zip(starts.tolist(), ends.tolist(), strict=True))
        return self._cut(opened, below, rows)

    def _warn_of_pickle(self, folder: Path) -> None:
        """CALVIN's instructions are stored in a way that runs code when it is read."""
        for path in sorted(folder.glob("lang_*/auto_lang_ann.npy")):
            self.warnings.append(
                f"{path.relative_to(folder.parent)} is a pickle, which is never loaded: give the "
                "instruction itself (`task=WORDS`)"
            )

    def _cut(
        self,
        opened: OpenContainer,
        below: Mapping[str, Array],
        rows: int,
    ) -> list[tuple[int, int]] | None:
        """At true ends and time limits, as D4RL stores its episodes."""

        def marked(names: Sequence[str]) -> tuple[str, np.ndarray] | None:
            for name in names:
                array = below.get(name)
                if array is not None and array.is_single and array.rows == rows:
                    values = opened.read(array, 0, rows).reshape(rows) > 0
                    return name, values
            return None

        ends = marked(ENDS)
        limits = marked(TIME_LIMITS)
        used = [found for found in (ends, limits) if found is not None]
        if not used:
            return None
        last = np.logical_or.reduce([values for _, values in used])
        if limits is None:
            # a flag that stays on once the task is solved marks one end
            last[:-1] &= ~last[1:]
        if not last[:-1].any():
            return None
        stops = [int(row) + 1 for row in np.flatnonzero(last)]
        names = " or ".join(f"`{name}`" for name, _ in used)
        note = f"is cut into episodes after the steps that {names} mark"
        if stops[-1] < rows:
            note += f"; its last {rows - stops[-1]} steps have no such mark and are one, too"
            stops.append(rows)
        self.warnings.append(f"{self.container.path.name} {note}")
        return list(zip([0, *stops[:-1]], stops, strict=True))


def _holding(arrays: Mapping[str, Array], key: str) -> list[str | None]:
    """The groups below which `key` lies, with or without what may be left out before it."""
    found: list[str | None] = []
    for prefix in ("", *PREFIXES):
        whole = f"/{prefix}{key}"
        for path in arrays:
            place = f"/{path}"
            if place.endswith(whole):
                found.append(place[1 : len(place) - len(whole) + 1])
            elif f"{whole}/" in place:
                found.append(place[1 : place.index(f"{whole}/") + 1])
        if found:
            return found
    return found
