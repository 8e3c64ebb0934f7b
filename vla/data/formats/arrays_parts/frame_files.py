"""A folder with one `.npz` file for each frame, as CALVIN stores its episodes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.arrays_parts.container import Array, Container, OpenContainer
from vla.data.formats.arrays_parts.npz_file import NpzFile
from vla.data.formats.common.files import SOURCE, check_plain, inside, library_errors

BOUNDS = "ep_start_end_ids.npy"
"""First and last frame of each episode."""
_FRAME = re.compile(r"episode_(\d+)\.npz")


def episode_bounds(folder: Path) -> list[tuple[int, int]]:
    """(first frame, frame after the last) of each episode. Raises DataError."""
    path = folder / BOUNDS
    check_plain(path)
    with library_errors(path, "no .npy array"):
        # mapped: what its header says is compared with the file's size, and nothing is read
        bounds = np.load(path, mmap_mode="r", allow_pickle=False)
    if bounds.ndim != 2 or bounds.shape[1] != 2 or bounds.dtype.kind not in "iu":
        raise DataError(
            f"{path}: is {bounds.dtype} {bounds.shape}, expected the first and last frame of each "
            f"episode; {SOURCE}"
        )
    return [(int(first), int(last) + 1) for first, last in bounds]


class FrameFiles(Container):
    """The frames of a folder; row i is the file with number i."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        numbers = {}
        for file in path.iterdir():
            found = _FRAME.fullmatch(file.name)
            if found:
                numbers[int(found[1])] = file
        if not numbers:
            raise DataError(f"{path}: has no frames episode_0000000.npz; {SOURCE}")
        self.frames = numbers

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenContainer]:
        yield _OpenFrames(self)

    def files(self) -> list[Path]:
        return list(self.frames.values())


class _OpenFrames(OpenContainer):
    def __init__(self, folder: FrameFiles) -> None:
        super().__init__(folder)
        self._folder = folder

    def arrays(self) -> dict[str, Array]:
        frames = self._folder.frames
        rows = max(frames) + 1
        with NpzFile(frames[min(frames)]).opened() as opened:
            found = opened.arrays()
        described = {}
        for key, array in found.items():
            shape = (rows, *array.shape)
            described[key] = Array(array.path, shape, array.dtype, array.is_text)
        return described

    def _read(self, array: Array, start: int, stop: int) -> np.ndarray:
        rows = [self._row(array, number) for number in range(start, stop)]
        return np.stack(rows) if rows else np.zeros((0, *array.shape[1:]), array.dtype)

    def _row(self, array: Array, number: int) -> np.ndarray:
        file = self._folder.frames.get(number)
        if file is None:
            raise DataError(
                f"{self._folder.path}: frame {number} is missing, {BOUNDS} names it; {SOURCE}"
            )
        with NpzFile(inside(self._folder.path, file)).opened() as opened:
            found = opened.arrays().get(array.path.removesuffix(".npy"))
            if found is None or found.shape != array.shape[1:]:
                stored = "missing" if found is None else f"{found.dtype} {found.shape}"
                raise DataError(
                    f"{file}: {array.path} is {stored}, expected {array.dtype} "
                    f"{array.shape[1:]} as in the first frame; {SOURCE}"
                )
            return opened.read(found, 0, found.rows)
