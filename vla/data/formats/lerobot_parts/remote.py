"""LeRobot datasets of any version that lie elsewhere: read through a mirror that is filled as
frames are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.data.errors import DataError
from vla.data.format import DatasetReader, KeyMap, Picture
from vla.data.formats.lerobot import LeRobotReader
from vla.data.formats.lerobot_parts.base import LeRobotFolder
from vla.data.formats.lerobot_v2 import LeRobotV2Reader
from vla.data.storage.remote_cache import Mirror


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
            for path in dict.fromkeys(
                segment.path for segment in self._videos[feature][first : last + 1]
            ):
                self.mirror.fetch(path)
        else:
            for _, row, count in self._runs(start, stop):
                self._fetch_rows(feature, row, row + count)
        return super().images(camera, start, stop)

    def _fetch_rows(self, feature: str, start: int, stop: int) -> None:
        for file, group in self._files.row_groups_of(start, stop):
            self.mirror.fetch_column(self._files.paths[file], group, feature)


class _MirroredV3(_Mirrored, LeRobotReader):
    pass


class _MirroredV2(_Mirrored, LeRobotV2Reader):
    pass


def open_remote(url: str, format: str | None, keys: KeyMap | None) -> DatasetReader:
    """The dataset at a URL. Raises DataError if it is none, or cannot be reached."""
    mirror = Mirror(url)
    readers: dict[str, type[_Mirrored]] = {"lerobot": _MirroredV3, "lerobot_v2": _MirroredV2}
    for name, reader in readers.items():
        if name == format or (format is None and reader.matches(Path(mirror.root))):
            return reader(mirror, keys)
    raise DataError(
        f"{url}: no LeRobot dataset (v2 or v3) is here; other formats are read from local folders "
        "alone"
    )
