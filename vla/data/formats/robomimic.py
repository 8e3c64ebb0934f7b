"""robomimic datasets, and others of the same layout (LIBERO, robosuite's own recordings): one HDF5
file with a group for each demonstration.

L: steps of an episode.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vla.common.registry import register
from vla.data.episode import Scalar
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.arrays_parts.container import Array, EpisodeArrays, OpenContainer
from vla.data.formats.arrays_parts.hdf5_file import SUFFIXES, Hdf5File
from vla.data.formats.arrays_parts.reader import ArrayEpisodesReader
from vla.data.formats.common.episodic_reader import EpisodeNumbers, camera_name
from vla.data.formats.common.files import parse_json
from vla.data.formats.common.hdf5 import (
    child,
    children,
    dataset_at,
    is_group,
    opened,
    text,
    values_of,
)
from vla.data.formats.common.names import natural

_PROPRIOCEPTION = ("eef_pos", "eef_quat", "gripper_qpos")


@register("formats", "robomimic")
class RobomimicReader(ArrayEpisodesReader):
    """Reads the HDF5 file at `root`. Opening reads all numbers that are no images."""

    _action_names = ("actions",)
    _prefixes = ("obs/",)
    _called: ClassVar[dict[str, str]] = {"actions": "action"}

    @classmethod
    def matches(cls, root: Path) -> bool:
        if not root.is_file() or root.suffix.lower() not in SUFFIXES:
            return False
        try:
            with opened(root) as file:
                data = child(file, "data")
                # flat arrays below `data` are of another layout
                return is_group(data) and not any(dataset_at(data, name) for name in children(data))
        except DataError:
            return True  # damaged, which the reader says

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        if not root.is_file():
            raise DataError(f"{root}: is no file; give the .hdf5 file itself")
        super().__init__(root, keys)

    # --- the demonstrations -----------------------------------------------------------------------

    def _find(self) -> list[EpisodeArrays]:
        with opened(self.root) as file:
            data = child(file, "data")
            if data is None:
                raise DataError(
                    f"{self.root}: has no group 'data' (it has: {', '.join(children(file))}); give "
                    "a robomimic file"
                )
            self.metadata = self._attributes(data)
            demos = self._demonstrations(file, data)
        container = Hdf5File(self.root)
        episodes = []
        with container.opened() as whole:
            for name in demos:
                arrays = whole.arrays_below(f"data/{name}/")
                described = self.metadata | whole.attributes(f"data/{name}")
                episodes.append(EpisodeArrays(name, container, arrays, 0, described))
        return episodes

    def _attributes(self, data: Any) -> dict[str, Any]:
        """What the file says of its task: `env_args`, and LIBERO's `problem_info`."""
        found = {}
        for name in ("env_args", "problem_info"):
            if name in data.attrs:
                place = f"{self.root}: data.attrs[{name!r}]"
                found[name] = parse_json(text(data.attrs[name]), place)
        return found

    def _demonstrations(self, file: Any, data: Any) -> list[str]:
        """Names of the demonstrations, in order of their numbers; of one filter key if the keys
        name a split."""
        # A recorder that was stopped leaves groups without actions: no demonstrations.
        needed = None if self.keys.action else "actions"
        demos = [name for name in children(data) if _is_demo(child(data, name), needed)]
        if self.keys.split is not None:
            masks = child(file, "mask")  # filter key -> names of demonstrations
            known = [] if masks is None else children(masks)
            if self.keys.split not in known:
                raise DataError(
                    f"{self.root}: no mask {self.keys.split!r}; it has: "
                    f"{', '.join(known) or 'none'}"
                )
            mask = dataset_at(masks, self.keys.split)
            if mask is None:
                raise DataError(
                    f"{self.root}: mask {self.keys.split!r} is a group, expected names of "
                    f"demonstrations; it has: {', '.join(known)}"
                )
            wanted = {text(name) for name in np.ravel(values_of(mask))}
            missing = sorted(wanted - set(demos), key=natural)
            if missing:
                raise DataError(
                    f"{self.root}: mask {self.keys.split!r} names {missing[0]!r}, which is not in "
                    "'data'"
                )
            demos = [name for name in demos if name in wanted]
        if not demos:
            raise DataError(
                f"{self.root}: has no demonstrations with 'actions'; check that it was copied whole"
            )
        return demos

    # --- what is read as what ---------------------------------------------------------------------

    def _cameras_of(self, keys: list[str]) -> dict[str, str]:
        found = {}
        for key in keys:
            # `next_obs/` holds the same images once more, a step later
            if key.startswith("obs/"):
                found[camera_name(key.removeprefix("obs/")).removesuffix("_image")] = key
        return found

    def _state_keys(self, numbers: dict[str, Array], steps: int) -> list[str]:
        """Of each robot position, orientation and gripper; if no robot has these, all numbers of
        `obs`, by name."""
        # robomimic's own choice for its policies from images: joint angles say the same again
        names = [key.removeprefix("obs/") for key in numbers if key.startswith("obs/")]
        matches = [re.fullmatch(r"(robot\d+)_eef_pos", name) for name in names]
        robots = sorted({match[1] for match in matches if match}, key=natural)
        own = [f"{robot}_{part}" for robot in robots for part in _PROPRIOCEPTION]
        own = [name for name in own if name in names]
        return [f"obs/{name}" for name in own or names]

    def _unnamed_task(self) -> str:
        arguments = self.metadata.get("env_args", {})
        return str(arguments.get("env_name") or self.root.stem)

    # --- reading ----------------------------------------------------------------------------------

    def _episode(
        self,
        opened: OpenContainer,
        episode: EpisodeArrays,
        described: dict[str, Any],
    ) -> EpisodeNumbers:
        found = super()._episode(opened, episode, described)
        stored = described.get("num_samples")  # written when the demonstration was finished
        if stored is not None and stored != len(found.actions):
            raise DataError(
                f"{self.root}: {episode.name} has {len(found.actions)} actions, num_samples says "
                f"{stored}; drop it or copy the file again"
            )
        return found

    def _solved(
        self,
        opened: OpenContainer,
        episode: EpisodeArrays,
        rewards: np.ndarray,
    ) -> np.ndarray:
        # robosuite's sparse reward is 1 while the task is solved and 0 otherwise.
        if self._success is None and self._is_sparse():
            return rewards > 0
        return super()._solved(opened, episode, rewards)

    def _says_success(self) -> bool:
        return self._is_sparse() or super()._says_success()

    def _is_sparse(self) -> bool:
        settings = self.metadata.get("env_args", {}).get("env_kwargs")
        shaped = settings.get("reward_shaping") if isinstance(settings, dict) else None
        return shaped is False and self._reward is not None

    def _info(self, episode: EpisodeArrays, described: dict[str, Any]) -> dict[str, Scalar]:
        return {"demo": episode.name}


def _is_demo(node: Any, needed: str | None) -> bool:
    """Whether it is a group, with what is `needed` in it."""
    return is_group(node) and (needed is None or child(node, needed) is not None)
