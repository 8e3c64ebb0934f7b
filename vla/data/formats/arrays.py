"""Arrays per episode: folders of `.npz`, HDF5 and zarr files, groups of one such file, or arrays of
all episodes one after another (ALOHA, D4RL, ManiSkill, CALVIN, UMI, diffusion policy, ...)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from vla.common.registry import register
from vla.data.errors import DataError
from vla.data.formats.arrays_parts.container import EpisodeArrays
from vla.data.formats.arrays_parts.find import container_paths, find_episodes
from vla.data.formats.arrays_parts.reader import ArrayEpisodesReader


@register("formats", "arrays")
class ArraysReader(ArrayEpisodesReader):
    """Reads episodes of named arrays: `.npz`, `.hdf5` and zarr files, one for each episode or one
    for all."""

    is_general = True

    @classmethod
    def matches(cls, root: Path) -> bool:
        return any(True for _ in islice(container_paths(root), 1))

    def _find(self) -> list[EpisodeArrays]:
        found = find_episodes(self.root, self.keys, self.warnings)
        if not found:
            raise DataError(
                f"{self.root}: holds no .npz, .hdf5 or .zarr file; check that it was copied whole"
            )
        return found
