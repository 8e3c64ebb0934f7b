"""What holds named arrays: a file or a folder. One class per kind of container.

L: rows of an array.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.foreign.sizes import why_too_large
from vla.data.errors import DataError

_LARGEST_ROW = 4096
"""Numbers in a row that may be a state: more are point clouds and the like."""


@dataclass(frozen=True)
class Array:
    """One array of a container, which is not read yet.

    Attributes:
        path: in its container.
        shape: rows first.
        dtype: of its numbers; object for rows of texts or bytes.
        is_text: whether its rows are texts.
        block: rows that are read at a time.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    is_text: bool = False
    block: int = 64

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def unpacked(self) -> int:
        """Bytes of all rows in memory."""
        # Python's integers: those of a damaged header may overflow
        return math.prod(int(side) for side in self.shape) * self.dtype.itemsize

    @property
    def is_numeric(self) -> bool:
        """Whether it has numbers for each row."""
        numbers = self.dtype.kind in "biuf" and bool(self.shape)
        return numbers and 0 < self.width <= _LARGEST_ROW

    @property
    def is_single(self) -> bool:
        """Whether it is one number per step, or one number."""
        one = not self.shape or (self.is_numeric and self.width == 1)
        return self.dtype.kind in "biuf" and one

    def of_episode(self, rows: int) -> Array:
        """The rows of one episode of an array that holds several."""
        return replace(self, shape=(rows, *self.shape[1:]))


class OpenContainer(abc.ABC):
    """A container while it is open.

    Attributes:
        path: where it lies.
        stored: its bytes on disk.
    """

    def __init__(self, container: Container) -> None:
        self.path = container.path
        self.stored = container.stored

    @abc.abstractmethod
    def arrays(self) -> dict[str, Array]:
        """Path -> array, of all that it holds. Raises DataError if one lies elsewhere."""

    def read(self, array: Array, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop); of an array without rows all of it.

        Raises DataError if they take far more memory than the container has bytes.
        """
        rows = max(0, stop - start) if array.shape else 1
        problem = why_too_large(rows * (array.unpacked // max(1, array.rows)), self.stored)
        if problem:
            raise DataError(f"{self.path}: {array.path} {problem}")
        return self._read(array, start, stop)

    @abc.abstractmethod
    def _read(self, array: Array, start: int, stop: int) -> np.ndarray:
        """As `read`, which has looked at the size."""

    def attributes(self, group: str) -> dict[str, Any]:
        """What stands at a group and above it: texts and numbers; the nearest counts."""
        return {}

    def arrays_below(self, group: str) -> dict[str, Array]:
        """Those below a group (with a slash behind it), by what follows it in their paths."""
        found = self.arrays()
        return {path.removeprefix(group): a for path, a in found.items() if path.startswith(group)}

    def check(self, array: Array) -> None:
        """Raises DataError if an array is not stored whole. Reading it may be hours away."""
        return

    def missing(self, array: Array) -> str:
        """A sentence about parts of an array that are not stored; empty if all are."""
        return ""


class Container(abc.ABC):
    """A file or folder of named arrays.

    Attributes:
        path: where it lies.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abc.abstractmethod
    def opened(self) -> contextlib.AbstractContextManager[OpenContainer]:
        """Opens it; each thread for itself. What its library raises in the block becomes a
        DataError that names the file."""

    def files(self) -> list[Path]:
        """Whose change may change the images."""
        return [self.path]

    @functools.cached_property
    def stored(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.files())


@dataclass(frozen=True)
class EpisodeArrays:
    """One episode.

    Attributes:
        name: for messages.
        container: what holds its arrays.
        arrays: key -> array, with the shape that it has in this episode.
        first_row: of the container's arrays, where they hold several episodes one after another.
        attributes: what else is known of it.
    """

    name: str
    container: Container
    arrays: Mapping[str, Array]
    first_row: int
    attributes: Mapping[str, Any]

    def read(
        self,
        opened: OpenContainer,
        key: str,
        start: int = 0,
        stop: int | None = None,
    ) -> np.ndarray:
        """Rows [start, stop) of the episode."""
        array = self.arrays[key]
        end = array.rows if stop is None else stop
        return opened.read(array, self.first_row + start, self.first_row + end)

    def images(
        self,
        opened: OpenContainer,
        key: str,
        start: int,
        stop: int,
    ) -> Iterator[Any]:
        """Rows [start, stop), read in blocks."""
        block = self.arrays[key].block
        for at in range(start, stop, block):
            yield from self.read(opened, key, at, min(at + block, stop))
