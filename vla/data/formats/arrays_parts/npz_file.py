"""Arrays of an `.npz` archive; never a pickle."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.common.foreign.sizes import why_too_large
from vla.data.errors import DataError
from vla.data.formats.arrays_parts.container import Array, Container, OpenContainer
from vla.data.formats.arrays_parts.roles import ACTIONS
from vla.data.formats.common.files import SOURCE, check_plain, library_errors

SUFFIX = ".npz"


class NpzFile(Container):
    """An `.npz` archive."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenContainer]:
        check_plain(self.path)
        with library_errors(self.path, "no .npz archive"), zipfile.ZipFile(self.path) as archive:
            yield _OpenNpz(self, archive)


class _OpenNpz(OpenContainer):
    def __init__(self, container: Container, archive: zipfile.ZipFile) -> None:
        super().__init__(container)
        self._archive = archive
        self._last: tuple[str, np.ndarray] | None = None

    def arrays(self) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for info in self._archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename:
                raise DataError(
                    f"{self.path}: holds {info.filename!r}, which is no .npy array; {SOURCE}"
                )
            if name in found:
                raise DataError(f"{self.path}: holds {name!r} twice; {SOURCE}")
            found[name] = self._described(info, name)
        return found

    def _described(self, info: zipfile.ZipInfo, name: str) -> Array:
        """From its header alone: shapes must be known before gigabytes of images are read."""
        with self._archive.open(info) as file:
            if np.lib.format.read_magic(file) == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(file)
            # Python's integers: those of a damaged header may overflow
            size = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
        # pickled objects have no size, and are never loaded
        if not dtype.hasobject and size != info.file_size:
            raise DataError(
                f"{self.path}: {name!r} says {size} bytes and has {info.file_size}; {SOURCE}"
            )
        # A compressed member is read from its start: all rows at once.
        rows = max(int(shape[0]), 1) if shape else 1
        return Array(info.filename, tuple(shape), dtype, dtype.kind in "US", rows)

    def _read(self, array: Array, start: int, stop: int) -> np.ndarray:
        if self._last is None or self._last[0] != array.path:
            # The whole array, to its end, where its checksum is compared.
            size = self._archive.getinfo(array.path).file_size
            problem = why_too_large(size, self.stored)
            if problem:
                raise DataError(f"{self.path}: {array.path} {problem}")
            data = self._archive.read(array.path)
            values = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
            self._last = (array.path, np.asarray(values))
        values = self._last[1]
        return values[start:stop] if array.shape else values


def is_one_episode(path: Path) -> bool:
    """Whether the archive at `path` can be read and its arrays are those of one episode (or of all
    of them, one after another), and not named EPISODE/KEY."""
    try:
        with library_errors(path, "no .npz archive"), zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except DataError:
        return False
    top = [name for name in names if "/" not in name]
    inner = [name.rpartition("/")[2] for name in names if "/" in name]
    acts = set(ACTIONS).intersection
    return bool(top) and (not inner or (bool(acts(top)) and not acts(inner)))
