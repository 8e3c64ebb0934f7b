"""NumPy archives of episodes: one `.npz` file with arrays named EPISODE/KEY, such as
`00/observations` and `00/actions`.

L: steps of an episode.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vla.common.errors import UserError
from vla.common.registry import register
from vla.data.errors import DataError, unreadable
from vla.data.format import Image, KeyMap
from vla.data.formats.common.episodic_reader import (
    EpisodeNumbers,
    EpisodicReader,
    camera_name,
    dimension_names,
)
from vla.data.formats.common.files import SOURCE, fingerprint
from vla.data.formats.common.names import natural

ASSUMED_HZ = 20.0
"""If the keys do not say: an archive has no place for a control rate."""
_ACTIONS = ("actions", "action")
_STATES = ("observations", "observation", "obs", "states", "state")
_REWARDS = ("rewards", "reward")
_SUCCESS = ("success", "successes")
_ENDS = ("terminals", "terminated", "dones", "done")
_INSTRUCTIONS = ("instruction", "language_instruction", "instructions")


class _Array(NamedTuple):
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_image(self) -> bool:
        return self.dtype == np.uint8 and len(self.shape) == 4 and self.shape[3] == 3

    @property
    def is_numeric(self) -> bool:
        return self.dtype.kind in "biuf" and len(self.shape) in (1, 2)

    @property
    def is_single(self) -> bool:
        """One number per step, or one number."""
        one = not self.shape or (self.is_numeric and self.width == 1)
        return self.dtype.kind in "biuf" and one

    @property
    def width(self) -> int:
        return 1 if len(self.shape) == 1 else self.shape[1]


@register("formats", "npz")
class NpzReader(EpisodicReader):
    """Reads the `.npz` archive at `root`. Opening reads all numbers that are no images; never a
    pickle."""

    @classmethod
    def matches(cls, root: Path) -> bool:
        return root.is_file() and root.suffix.lower() == ".npz"

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        super().__init__(root, keys)
        if self.keys.split is not None:
            raise DataError(f"{root}: an .npz archive has no splits; leave `split` out")
        with self._opened() as archive:
            self._arrays = self._list(archive)
            self._read(archive)

    # --- the archive ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        """What zipfile and NumPy raise in the block becomes a DataError that names the file."""
        try:
            with zipfile.ZipFile(self.root) as archive:
                yield archive
        except UserError:
            raise
        # A damaged archive shows as BadZipFile, zlib.error, OSError, ValueError, KeyError,
        # MemoryError, SyntaxError (headers are Python literals), ...
        except Exception as error:
            problem = f"is damaged or no .npz archive ({error}); {SOURCE}"
            raise unreadable(self.root, problem) from error

    def _list(self, archive: zipfile.ZipFile) -> dict[str, dict[str, _Array]]:
        """Episode -> key -> array."""
        found: dict[str, dict[str, _Array]] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            episode, _, key = name.partition("/")
            if not key or name == info.filename:
                raise DataError(
                    f"{self.root}: holds {info.filename!r}, expected arrays named EPISODE/KEY, "
                    "such as 00/actions"
                )
            if key in found.setdefault(episode, {}):
                raise DataError(f"{self.root}: holds {name!r} twice; {SOURCE}")
            # Headers alone: shapes must be known before gigabytes of images are read.
            with archive.open(info) as file:
                if np.lib.format.read_magic(file) == (1, 0):
                    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                else:
                    shape, _, dtype = np.lib.format.read_array_header_2_0(file)
                # Python's integers: those of a damaged header may overflow
                size = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
            # Unpickling runs code that the file chooses.
            if dtype.hasobject:
                raise DataError(
                    f"{self.root}: {name!r} holds pickled objects, which are never loaded; store "
                    "numbers"
                )
            # checked here, since reading images may be hours away
            if size != info.file_size:
                raise DataError(
                    f"{self.root}: {name!r} says {size} bytes and has {info.file_size}; {SOURCE}"
                )
            found[episode][key] = _Array(info.filename, tuple(shape), dtype)
        if not found:
            raise DataError(f"{self.root}: has no arrays; check that it was copied whole")
        return found

    def _load(self, archive: zipfile.ZipFile, array: _Array) -> np.ndarray:
        data = archive.read(array.member)  # to its end, so that its checksum is compared
        return np.asarray(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))

    # --- what is read as what ---------------------------------------------------------------------

    def _read(self, archive: zipfile.ZipFile) -> None:
        self._episodes = sorted(self._arrays, key=natural)
        first = self._arrays[self._episodes[0]]
        self._cameras = self._find_cameras(first)
        actions = self._parts(first, "action", self.keys.action, _ACTIONS)
        if not sum(width for _, width in actions):
            raise self._lacking("action", _ACTIONS[0], list(first))
        states = self._parts(first, "state", self.keys.state, _STATES)
        self._warn_of_unread(first)
        episodes = [self._episode(archive, name, actions, states) for name in self._episodes]
        self._assemble(
            episodes,
            cameras=self._sizes(episodes),
            state_names=dimension_names(_called("state", states, _STATES)),
            action_names=dimension_names(_called("action", actions, _ACTIONS)),
            control_hz=self._control_rate(None, ASSUMED_HZ),
            unnamed_task=self.root.stem,
        )

    def _find_cameras(self, arrays: dict[str, _Array]) -> dict[str, str]:
        """Camera -> key."""
        images = [key for key, array in arrays.items() if array.is_image]
        if self.keys.cameras is None:
            return {camera_name(key): key for key in images}
        for camera, key in self.keys.cameras.items():
            if key not in images:
                raise self._lacking(f"camera {camera!r}", key, images)
        return dict(self.keys.cameras)

    def _parts(
        self,
        arrays: dict[str, _Array],
        what: str,
        keys: list[str] | None,
        usual: tuple[str, ...],
    ) -> list[tuple[str, int]]:
        """(key, width) of what is put side by side: the given keys, or the first of the usual
        ones."""
        numeric = {key: array for key, array in arrays.items() if array.is_numeric}
        chosen = keys
        if chosen is None:
            chosen = [key for key in usual if key in numeric][:1]
        for key in chosen:
            if key not in numeric:
                raise self._lacking(what, key, list(numeric))
        return [(key, numeric[key].width) for key in chosen]

    def _warn_of_unread(self, arrays: dict[str, _Array]) -> None:
        """Of what has the shape of images, or a usual name, and is not read."""
        usual = {*_ACTIONS, *_STATES, *_REWARDS, *_SUCCESS, *_ENDS}
        for key, array in arrays.items():
            images = array.dtype == np.uint8 and len(array.shape) >= 3 and not array.is_image
            if images or (key in usual and not array.is_numeric and array.shape):
                wanted = "uint8 (L, H, W, 3)" if images else "numbers (L,) or (L, D)"
                self.warnings.append(
                    f"{self._episodes[0]}/{key} is {array.dtype} {array.shape}, expected "
                    f"{wanted}: it is not read"
                )

    def _one(
        self,
        arrays: dict[str, _Array],
        what: str,
        key: str | None,
        usual: tuple[str, ...],
    ) -> list[str]:
        """The key of one number per step, or of the whole episode, or of none."""
        single = [name for name, array in arrays.items() if array.is_single]
        if key is not None and key not in single:
            raise self._lacking(what, key, single)
        names = (key,) if key is not None else usual
        return [name for name in names if name in single][:1]

    # --- reading ----------------------------------------------------------------------------------

    def _episode(
        self,
        archive: zipfile.ZipFile,
        name: str,
        actions: list[tuple[str, int]],
        states: list[tuple[str, int]],
    ) -> EpisodeNumbers:
        arrays = self._arrays[name]
        acted = self._matrix(archive, name, [key for key, _ in actions], None)
        L = len(acted)
        if not L:
            raise DataError(f"{self.root}: {name} has no actions; drop the episode")
        reward = self._one(arrays, "reward", self.keys.reward, _REWARDS)
        success = self._one(arrays, "success", self.keys.success, _SUCCESS)
        ended = self._one(arrays, "true end", None, _ENDS)
        return EpisodeNumbers(
            name=name,
            state=self._matrix(archive, name, [key for key, _ in states], L),
            actions=acted,
            rewards=self._numbers(archive, name, reward, L),
            success=self._numbers(archive, name, success, L) > 0,
            terminated=bool(self._numbers(archive, name, ended, L)[-1] > 0),
            instruction=self._instruction(archive, arrays),
            info={"name": name},
        )

    def _numbers(
        self,
        archive: zipfile.ZipFile,
        name: str,
        keys: list[str],
        L: int,
    ) -> np.ndarray:
        """(L,), zeros if no key is given. One number for the whole episode is due at its last
        step."""
        if not keys:
            return np.zeros(L)
        array = self._arrays[name].get(keys[0])
        # missing or of another kind: `_matrix` says so
        if array is None or array.shape or not array.is_single:
            return self._matrix(archive, name, keys, L)[:, 0]
        return np.where(np.arange(L) == L - 1, self._load(archive, array), 0)

    def _matrix(
        self,
        archive: zipfile.ZipFile,
        name: str,
        keys: list[str],
        L: int | None,
    ) -> np.ndarray:
        """(L, D). The observation after the last action may be there and is left out."""
        columns = [] if L is None else [np.zeros((L, 0), np.float32)]
        for key in keys:
            array = self._arrays[name].get(key)
            if array is None or not array.is_numeric:
                raise DataError(
                    f"{self.root}: {name} lacks {key!r}, which {self._episodes[0]} has; drop the "
                    "episode"
                )
            values = self._load(archive, array).reshape(array.shape[0], array.width)
            L = len(values) if L is None else L  # the actions come first and say it
            if len(values) not in (L, L + 1):
                raise DataError(
                    f"{self.root}: {name} has {L} actions and {len(values)} of {key!r}; drop the "
                    "episode"
                )
            columns.append(values[:L])
        return np.concatenate(columns, axis=1)

    def _instruction(self, archive: zipfile.ZipFile, arrays: dict[str, _Array]) -> str:
        texts = [key for key, array in arrays.items() if array.dtype.kind == "U"]
        texts = [key for key in texts if np.prod(arrays[key].shape, dtype=int)]
        if self.keys.instruction is not None and self.keys.instruction not in texts:
            raise self._lacking("instruction", self.keys.instruction, texts)
        for key in (self.keys.instruction,) if self.keys.instruction is not None else _INSTRUCTIONS:
            if key in texts:
                return str(self._load(archive, arrays[key]).reshape(-1)[0])
        return ""

    def _sizes(self, episodes: list[EpisodeNumbers]) -> dict[str, tuple[int, int]]:
        """(height, width) of each camera, the same in every episode."""
        sizes = {}
        for camera, key in self._cameras.items():
            _, height, width, _ = self._arrays[self._episodes[0]][key].shape
            for episode in episodes:
                array = self._arrays[episode.name].get(key)
                L = len(episode.actions)
                fits = array is not None and array.is_image and array.shape[1:3] == (height, width)
                if array is None or not fits or array.shape[0] not in (L, L + 1):
                    found = "missing" if array is None else f"{array.dtype} {array.shape}"
                    raise DataError(
                        f"{self.root}: {episode.name}/{key} is {found}, expected uint8 "
                        f"{(L, height, width, 3)}; drop the episode or leave the camera out"
                    )
            sizes[camera] = (height, width)
        return sizes

    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        """An episode's images are decompressed at once."""
        with self._opened() as archive:
            for episode, first, lower, upper in self._step_ranges(start, stop):
                array = self._arrays[self._episodes[episode]][self._cameras[camera]]
                # The whole array: a compressed member can be read from its start alone, and only at
                # its end is its checksum compared.
                images = self._load(archive, array)
                for step in range(lower, upper):
                    yield first + step, images[step]

    def fingerprint(self) -> str:
        return fingerprint(self.root, [self.root], self._cameras)


def _called(
    name: str,
    parts: list[tuple[str, int]],
    usual: tuple[str, ...],
) -> list[tuple[str, int]]:
    """Dimensions of a usual key are called by what they are."""
    if len(parts) == 1 and parts[0][0] in usual:
        return [(name, parts[0][1])]
    return parts


__all__ = ["NpzReader"]
