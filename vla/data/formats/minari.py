"""Minari datasets: one HDF5 file with a group for each episode, and a JSON file about the
environment.

Read without the package of that name, which makes the environment itself to learn the shapes of
some datasets: code that a data file chooses must not run when it is opened.

L: steps of an episode.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vla.common.registry import register
from vla.data.episode import Scalar
from vla.data.errors import DataError
from vla.data.formats.arrays_parts.container import Array, EpisodeArrays
from vla.data.formats.arrays_parts.hdf5_file import Hdf5File
from vla.data.formats.arrays_parts.reader import ArrayEpisodesReader
from vla.data.formats.arrays_parts.roles import first_of
from vla.data.formats.arrays_parts.words import scalars
from vla.data.formats.common.episodic_reader import camera_name
from vla.data.formats.common.files import inside, parse_json, read_json
from vla.data.formats.common.hdf5 import child, children, opened

_MAIN, _METADATA = "main_data.hdf5", "metadata.json"
_OBSERVATIONS = "observations/"


@register("formats", "minari")
class MinariReader(ArrayEpisodesReader):
    """Reads a Minari dataset: the folder that holds `data`, or `data` itself. Opening reads all
    that are no images."""

    _action_names = ("actions",)
    _prefixes = (_OBSERVATIONS,)
    _called: ClassVar[dict[str, str]] = {"actions": "action", "observations": "state"}
    _instruction_names = ("mission", "instruction", "language_instruction", "options/instruction")

    @classmethod
    def matches(cls, root: Path) -> bool:
        signs = (root / _MAIN, root / "data" / _MAIN, root / "data" / _METADATA)
        return any(path.is_file() for path in signs)

    def _find(self) -> list[EpisodeArrays]:
        root = self.root
        if self.keys.split is not None:
            raise DataError(
                f"{root}: a Minari dataset has no splits; leave out the key `split` "
                f"({self.keys.split!r})"
            )
        folder = root if (root / _MAIN).is_file() else root / "data"
        stored = read_json(root, folder / _METADATA)
        if stored.get("data_format", "hdf5") != "hdf5":
            raise DataError(
                f"{folder / _METADATA}: data_format is {stored['data_format']!r}; write it again "
                "as 'hdf5'"
            )
        path = inside(root, folder / _MAIN)
        if not path.is_file():
            raise DataError(f"{path}: no such file; copy it from the dataset's source")
        # The spaces are descriptions of envs that Minari's package would build.
        self.metadata = {key: value for key, value in stored.items() if not key.endswith("_space")}
        container = Hdf5File(path)
        with opened(path) as file:
            groups = [name for name in children(file) if name.startswith("episode_")]
            for name in groups:
                child(file, name)  # refuses links
        if not groups:
            raise DataError(f"{path}: has no episodes; check that it was copied whole")
        expected = stored.get("total_episodes")
        if expected is not None and expected != len(groups):
            raise DataError(
                f"{path}: holds {len(groups)} episodes, {_METADATA} says {expected}; copy both "
                "files again"
            )
        episodes = []
        with container.opened() as whole:
            for name in groups:
                arrays = whole.arrays_below(f"{name}/")
                episodes.append(EpisodeArrays(name, container, arrays, 0, whole.attributes(name)))
        return episodes

    # --- what is read as what ---------------------------------------------------------------------

    def _cameras_of(self, keys: list[str]) -> dict[str, str]:
        own = [key for key in keys if key.startswith("observations")]
        return {camera_name(key.removeprefix(_OBSERVATIONS)): key for key in own}

    def _state_keys(self, numbers: dict[str, Array], steps: int) -> list[str]:
        return first_of(("observations",), numbers)

    def _unnamed_task(self) -> str:
        with contextlib.suppress(DataError):  # a name is all that is lost
            spec = parse_json(self.metadata.get("env_spec", ""), "env_spec")
            if isinstance(spec.get("id"), str):
                return str(spec["id"])
        return str(self.metadata.get("dataset_id") or self.root.name)

    # --- reading ----------------------------------------------------------------------------------

    def _aligned(self, key: str, values: np.ndarray, L: int | None) -> np.ndarray:
        # infos begin with those of the reset, before the first action
        return values[1:] if key.startswith("infos/") and len(values) == (L or 0) + 1 else values

    def _info(self, episode: EpisodeArrays, described: dict[str, Any]) -> dict[str, Scalar]:
        return scalars(described)


__all__ = ["MinariReader"]
