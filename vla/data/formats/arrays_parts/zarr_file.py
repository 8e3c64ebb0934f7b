"""Arrays of a zarr store: a folder, or a `.zarr.zip` file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.arrays_parts.container import Array, Container, OpenContainer
from vla.data.formats.common.files import library_errors

_SIGNS = (".zgroup", ".zarray", "zarr.json")
_ZIP = ".zarr.zip"
_MOST_BYTES = 2**28
"""Of a block of rows in memory."""


def is_zarr(path: Path) -> bool:
    """Whether a zarr store is here, by its name or its first file."""
    if path.name.lower().endswith(_ZIP):
        return path.is_file()
    return path.is_dir() and any((path / sign).is_file() for sign in _SIGNS)


class ZarrStore(Container):
    """A zarr store of version 2 or 3."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenContainer]:
        try:
            import zarr
        except ImportError as error:
            raise DataError(
                f"{self.path}: needs the package zarr: pip install 'vla[formats]'"
            ) from error
        _register_codecs()
        with library_errors(self.path, "no zarr store"):
            store: Any = self.path
            if self.path.is_file():
                store = zarr.storage.ZipStore(self.path, mode="r")
            try:
                yield _OpenZarr(self, zarr.open_group(store, mode="r"))
            finally:
                if self.path.is_file():
                    store.close()

    def files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        # of one chunk each: their number and times stand for the pixels in them
        return [file for file in self.path.rglob("*") if file.is_file()]


class _OpenZarr(OpenContainer):
    def __init__(self, container: Container, group: Any) -> None:
        super().__init__(container)
        self._group = group

    def arrays(self) -> dict[str, Array]:
        found = {}
        for path, node in self._group.members(max_depth=None):
            if hasattr(node, "shape"):
                found[path] = self._described(path, node)
        return dict(sorted(found.items()))

    def _described(self, path: str, node: Any) -> Array:
        dtype = np.dtype(node.dtype)
        rows = node.chunks[0] if node.shape else 1
        row_bytes = max(1, int(np.prod(node.shape[1:], dtype=np.int64)) * dtype.itemsize)
        # whole chunks, since each is unpacked at once, unless they are larger than memory
        block = min(max(64, rows), max(1, _MOST_BYTES // row_bytes))
        is_text = dtype.kind in "USTO"
        return Array(path, tuple(node.shape), dtype, is_text, block)

    def _read(self, array: Array, start: int, stop: int) -> np.ndarray:
        node = self._group[array.path]
        return np.asarray(node[start:stop] if array.shape else node[()])

    def attributes(self, group: str) -> dict[str, Any]:
        found = dict(self._group.attrs)
        node = self._group
        for part in filter(None, group.split("/")):
            node = node[part]
            found |= dict(node.attrs)
        return found

    def missing(self, array: Array) -> str:
        node = self._group[array.path]
        there, all_of_them = node.nchunks_initialized, node.nchunks
        if there == all_of_them:
            return ""
        return (
            f"{array.path}: {all_of_them - there} of {all_of_them} chunks are not stored and read "
            f"as {node.fill_value}: so zarr stores what is all of one value, and so looks a copy "
            "that was cut off"
        )


def _register_codecs() -> None:
    """Those of the package imagecodecs, in which UMI stores images, if it is installed."""
    # without them zarr names the codec that it lacks
    with contextlib.suppress(ImportError):
        from imagecodecs.numcodecs import register_codecs

        register_codecs(verbose=False)
