"""LeRobot datasets of any version that lie elsewhere: read through a cache that is filled as
frames are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.data.errors import DataError
from vla.data.format import DatasetReader, Image, KeyMap
from vla.data.formats.lerobot import LeRobotReader
from vla.data.formats.lerobot_parts.base import LeRobotFolder
from vla.data.formats.lerobot_v2 import LeRobotV2Reader
from vla.data.storage.remote_cache import RemoteCache


class _Remote(LeRobotFolder):
    """Fetches what holds the frames that are asked for."""

    cache: RemoteCache

    def __init__(self, cache: RemoteCache, keys: KeyMap | None = None) -> None:
        self.cache = cache
        super().__init__(cache.root, keys)

    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        feature = self._mapping.cameras[camera]
        if feature in self._videos:
            # A video is fetched as a whole: where in it a frame lies is known only to its decoder.
            starts = self.episodes["first_frame"].to_numpy()
            first, last = np.searchsorted(starts, [start, stop - 1], side="right") - 1
            segments = self._videos[feature][first : last + 1]
            for path in dict.fromkeys(segment.path for segment in segments):
                self.cache.fetch(path)
        else:
            for _, row, count in self._runs(start, stop):
                self._fetch_rows(feature, row, row + count)
        return super().images(camera, start, stop)

    def _fetch_rows(self, feature: str, start: int, stop: int) -> None:
        for file, group in self._files.row_groups_of(start, stop):
            self.cache.fetch_column(self._files.paths[file], group, feature)


# A frame cache remembers the class that its frames were read by: another name for one of these
# would have all frames decoded again.
class _MirroredV3(_Remote, LeRobotReader):
    pass


class _MirroredV2(_Remote, LeRobotV2Reader):
    pass


def open_remote(url: str, format: str | None, keys: KeyMap | None) -> DatasetReader:
    """The dataset at a URL. Raises DataError if it is none, or cannot be reached."""
    cache = RemoteCache(url)
    readers: dict[str, type[_Remote]] = {"lerobot": _MirroredV3, "lerobot_v2": _MirroredV2}
    for name, reader in readers.items():
        if name == format or (format is None and reader.matches(Path(cache.root))):
            return reader(cache, keys)
    raise DataError(
        f"{url}: no LeRobot dataset (v2 or v3) is here; other formats are read from local folders "
        "alone"
    )
