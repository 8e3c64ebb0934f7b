"""LeRobot datasets of any version that lie elsewhere: read through a mirror that is filled as frames are asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.errors import DataError
from vla.data.format import DatasetReader, KeyMap, Picture
from vla.data.formats._lerobot_base import LeRobotFolder
from vla.data.formats._lerobot_files import opened_parquet
from vla.data.formats.lerobot import LeRobotReader
from vla.data.formats.lerobot_v2 import LeRobotV2Reader
from vla.data.mirror import Mirror


class _Mirrored(LeRobotFolder):
    """Fetches what holds the frames that are asked for."""

    mirror: Mirror

    def __init__(self, mirror: Mirror, keys: KeyMap | None = None) -> None:
        self.mirror = mirror
        super().__init__(mirror.root, keys)

    def images(self, camera: str, start: int, stop: int) -> Iterator[tuple[int, Picture]]:
        feature = self._mapping.cameras[camera]
        if feature in self._videos:
            starts = self.episodes["first_frame"].to_numpy()
            first, last = np.searchsorted(starts, [start, stop - 1], side="right") - 1
            for path in dict.fromkeys(segment.path for segment in self._videos[feature][first : last + 1]):
                self.mirror.fetch(path)
        else:
            for _, row, count in self._runs(start, stop):
                self._fetch_rows(feature, row, row + count)
        return super().images(camera, start, stop)

    def _fetch_rows(self, feature: str, start: int, stop: int) -> None:
        first = np.searchsorted(self._group_ends, start, side="right")
        last = np.searchsorted(self._group_ends, stop, side="left")
        for file, group in self._groups[first : last + 1]:
            self.mirror.fetch_column(file, group, feature)

    @functools.cached_property
    def _groups(self) -> list[tuple[Path, int]]:
        """(file, row group) of all data, in the order of rows."""
        return [(file, g) for file, metadata in self._metadata for g in range(metadata.num_row_groups)]

    @functools.cached_property
    def _group_ends(self) -> np.ndarray:
        """The row after the last one of each row group."""
        rows = [m.row_group(g).num_rows for _, m in self._metadata for g in range(m.num_row_groups)]
        return np.cumsum(rows)

    @functools.cached_property
    def _metadata(self) -> list[tuple[Path, Any]]:
        found = []
        for path in self._files.paths:
            with opened_parquet(path, self.remedy(path)) as parquet:
                found.append((path, parquet.metadata))
        return found


class _MirroredV3(_Mirrored, LeRobotReader):
    pass


class _MirroredV2(_Mirrored, LeRobotV2Reader):
    pass


def open_remote(url: str, format: str | None, keys: KeyMap | None) -> DatasetReader:
    """The dataset at a URL. Raises DataError where it is none, or cannot be reached."""
    mirror = Mirror(url)
    readers: dict[str, type[_Mirrored]] = {"lerobot": _MirroredV3, "lerobot_v2": _MirroredV2}
    for name, reader in readers.items():
        if name == format or (format is None and reader.matches(Path(mirror.root))):
            return reader(mirror, keys)
    raise DataError(f"{url}: no LeRobot dataset (v2 or v3) is here; other formats are read from local folders alone")
