"""NumPy archives of episodes: one `.npz` file with arrays named EPISODE/KEY, such as
`00/observations` and `00/actions`.
"""

from __future__ import annotations

from pathlib import Path

from vla.common.registry import register
from vla.data.errors import DataError
from vla.data.formats.arrays_parts.container import Array, EpisodeArrays
from vla.data.formats.arrays_parts.npz_file import SUFFIX, NpzFile, is_one_episode
from vla.data.formats.arrays_parts.reader import ArrayEpisodesReader
from vla.data.formats.common.episodic_reader import camera_name
from vla.data.formats.common.names import natural


@register("formats", "npz")
class NpzReader(ArrayEpisodesReader):
    """Reads the `.npz` archive at `root`. Opening reads all numbers that are no images; never a
    pickle."""

    _action_names = ("actions", "action")

    @classmethod
    def matches(cls, root: Path) -> bool:
        return root.is_file() and root.suffix.lower() == SUFFIX and not is_one_episode(root)

    def _find(self) -> list[EpisodeArrays]:
        if self.keys.split is not None:
            raise DataError(f"{self.root}: an .npz archive has no splits; leave `split` out")
        container = NpzFile(self.root)
        with container.opened() as opened:
            arrays = opened.arrays()
        found: dict[str, dict[str, Array]] = {}
        for name, array in arrays.items():
            episode, _, key = name.partition("/")
            if not key:
                raise DataError(
                    f"{self.root}: holds {array.path!r}, expected arrays named EPISODE/KEY, such "
                    "as 00/actions"
                )
            found.setdefault(episode, {})[key] = array
        names = sorted(found, key=natural)
        return [EpisodeArrays(name, container, found[name], 0, {}) for name in names]

    def _cameras_of(self, keys: list[str]) -> dict[str, str]:
        return {camera_name(key): key for key in keys}


__all__ = ["NpzReader"]
