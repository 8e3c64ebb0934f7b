"""Arrays of an HDF5 file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from vla.data.formats.arrays_parts.container import Array, Container, OpenContainer
from vla.data.formats.common.hdf5 import check_stored, child, leaves, opened

SUFFIXES = (".hdf5", ".h5", ".hdf")


class Hdf5File(Container):
    """An HDF5 file."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenContainer]:
        with opened(self.path) as file:
            yield _OpenHdf5(self, file)


class _OpenHdf5(OpenContainer):
    def __init__(self, container: Container, file: Any) -> None:
        super().__init__(container)
        self._file = file

    def arrays(self) -> dict[str, Array]:
        return self.arrays_below("")

    def arrays_below(self, group: str) -> dict[str, Array]:
        node = child(self._file, group.rstrip("/")) if group else self._file
        found = {}
        for path, dataset in leaves(node).items():
            if dataset.shape is not None:
                found[path] = _described(group + path, dataset)
        return found

    def _read(self, array: Array, start: int, stop: int) -> np.ndarray:
        dataset = child(self._file, array.path)
        check_stored(dataset)
        values = dataset[start:stop] if array.shape else dataset[()]
        return np.asarray(values)

    def check(self, array: Array) -> None:
        check_stored(child(self._file, array.path))

    def attributes(self, group: str) -> dict[str, Any]:
        found = dict(self._file.attrs)
        node = self._file
        for part in filter(None, group.split("/")):
            node = child(node, part)
            found |= dict(node.attrs)
        return found


def _described(path: str, dataset: Any) -> Array:
    import h5py

    text = h5py.check_string_dtype(dataset.dtype) is not None
    # a row of a larger chunk would be unpacked again for each block
    rows = dataset.chunks[0] if dataset.chunks else 1
    return Array(path, tuple(dataset.shape), dataset.dtype, text, max(64, rows))
