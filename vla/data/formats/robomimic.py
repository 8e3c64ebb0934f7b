"""robomimic datasets, and others of the same layout (LIBERO): one HDF5 file with a group for each
demonstration.

L: steps of an episode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.registry import register
from vla.data.errors import DataError
from vla.data.format import Image, KeyMap
from vla.data.formats.common.episodic_reader import (
    EpisodeNumbers,
    EpisodicReader,
    camera_name,
    dimension_names,
)
from vla.data.formats.common.files import fingerprint, parse_json
from vla.data.formats.common.hdf5 import (
    blocks,
    check_stored,
    child,
    children,
    dataset_at,
    is_group,
    is_image,
    is_numeric,
    leaves,
    matrix,
    opened,
    text,
)
from vla.data.formats.common.names import natural

ASSUMED_HZ = 20.0
"""If neither keys nor file say: robosuite's default."""
_SUFFIXES = (".hdf5", ".h5")
_PROPRIOCEPTION = ("eef_pos", "eef_quat", "gripper_qpos")


@register("formats", "robomimic")
class RobomimicReader(EpisodicReader):
    """Reads the HDF5 file at `root`. Opening reads all numbers that are no images."""

    @classmethod
    def matches(cls, root: Path) -> bool:
        if not root.is_file() or root.suffix.lower() not in _SUFFIXES:
            return False
        try:
            with opened(root) as file:
                data = child(file, "data")
                # flat arrays below `data` are of another layout
                return is_group(data) and not any(dataset_at(data, name) for name in children(data))
        except DataError:
            return True  # damaged, which the reader says

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        super().__init__(root, keys)
        if not root.is_file():
            raise DataError(f"{root}: is no file; give the .hdf5 file itself")
        with opened(root) as file:
            data = child(file, "data")
            if data is None:
                raise DataError(
                    f"{root}: has no group 'data' (it has: {', '.join(children(file))}); give a "
                    "robomimic file"
                )
            self.metadata = self._attributes(data)
            self._demos = self._chosen(file, data)
            first = data[self._demos[0]]
            self._cameras = self._find_cameras(first)
            self._actions = self._numeric(first, "action", self.keys.action, ["actions"])
            self._states = self._numeric(first, "state", self.keys.state, _default_state(first))
            self._reward = self._one(first, "reward", self.keys.reward, "rewards")
            self._success = self._one(first, "success", self.keys.success, "success")
            self._read(data)

    # --- what is read as what ---------------------------------------------------------------------

    def _attributes(self, data: Any) -> dict[str, Any]:
        """What the file says of its task: `env_args`, and LIBERO's `problem_info`."""
        found = {}
        for name in ("env_args", "problem_info"):
            if name in data.attrs:
                place = f"{self.root}: data.attrs[{name!r}]"
                found[name] = parse_json(text(data.attrs[name]), place)
        return found

    def _chosen(self, file: Any, data: Any) -> list[str]:
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
            wanted = {text(name) for name in child(masks, self.keys.split)[()]}
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

    def _find_cameras(self, demo: Any) -> dict[str, str]:
        """Camera -> path below a demonstration."""
        images = [name for name, dataset in leaves(demo).items() if is_image(dataset)]
        found = {}
        if self.keys.cameras is None:
            for name in images:
                # `next_obs/` holds the same images once more, a step later
                if name.startswith("obs/"):
                    camera = camera_name(name.removeprefix("obs/")).removesuffix("_image")
                    found[camera] = name
            return found
        for camera, key in self.keys.cameras.items():
            matches = [name for name in (key, f"obs/{key}") if name in images]
            if not matches:
                raise self._lacking(f"camera {camera!r}", key, images)
            found[camera] = matches[0]
        return found

    def _numeric(
        self,
        demo: Any,
        what: str,
        keys: list[str] | None,
        default: list[str],
    ) -> list[tuple[str, int]]:
        """(path below a demonstration, width) of what is put side by side."""
        found = []
        for key in default if keys is None else keys:
            place = self._find(demo, key)
            if place is None:
                raise self._lacking(what, key, _numeric_names(demo))
            dataset = child(demo, place)
            found.append((place, 1 if dataset.ndim == 1 else int(dataset.shape[1])))
        if what == "action" and not sum(width for _, width in found):
            raise DataError(
                f"{self.root}: {demo.name}: has no numbers as action; name one of its keys `action`"
            )
        return found

    def _one(
        self,
        demo: Any,
        what: str,
        key: str | None,
        default: str,
    ) -> str | None:
        place = self._find(demo, key or default)
        if place is not None and child(demo, place).size == child(demo, place).shape[0]:
            return place
        if key is not None:
            raise self._lacking(what, key, _numeric_names(demo))
        return None

    def _find(self, demo: Any, key: str) -> str | None:
        """Of numbers, with or without `obs/`."""
        for name in (key, f"obs/{key}"):
            dataset = dataset_at(demo, name)
            if dataset is not None and is_numeric(dataset):
                return name
        return None

    # --- reading ----------------------------------------------------------------------------------

    def _read(self, data: Any) -> None:
        arguments = self.metadata.get("env_args", {})
        settings = arguments.get("env_kwargs")
        settings = settings if isinstance(settings, dict) else {}
        # robosuite's sparse reward is 1 while the task is solved and 0 otherwise.
        sparse = settings.get("reward_shaping") is False
        episodes = [self._episode(child(data, name), name, sparse) for name in self._demos]
        # one of them is one action: its dimensions are action_0, action_1, ...
        actions = [("action" if n == "actions" else n, width) for n, width in self._actions]
        control_hz = self._control_rate(settings.get("control_freq"), ASSUMED_HZ)
        self._assemble(
            episodes,
            cameras=self._sizes(data),
            state_names=dimension_names(self._states),
            action_names=dimension_names(actions),
            control_hz=control_hz,
            unnamed_task=str(arguments.get("env_name") or self.root.stem),
        )

    def _episode(self, demo: Any, name: str, sparse: bool) -> EpisodeNumbers:
        actions = self._matrix(demo, self._actions, None)
        L = len(actions)
        stored = demo.attrs.get("num_samples")  # written when the demonstration was finished
        if not L or (stored is not None and int(stored) != L):
            raise DataError(
                f"{self.root}: {name} has {L} actions, num_samples says {stored}; drop it or copy "
                "the file again"
            )
        rewards = self._single(demo, self._reward, L)
        if self._success:
            success = self._single(demo, self._success, L) > 0
        else:
            success = sparse & (rewards > 0)
        dones = self._single(demo, "dones" if child(demo, "dones") is not None else None, L)
        return EpisodeNumbers(
            name=name,
            state=self._matrix(demo, self._states, L),
            actions=actions,
            rewards=rewards,
            success=success,
            terminated=bool(dones[-1] > 0),
            instruction=self._instruction(demo),
            info={"demo": name},
        )

    def _single(
        self,
        demo: Any,
        place: str | None,
        L: int,
    ) -> np.ndarray:
        """(L,), zeros without a place."""
        return np.zeros(L) if place is None else self._matrix(demo, [(place, 1)], L)[:, 0]

    def _matrix(
        self,
        demo: Any,
        parts: list[tuple[str, int]],
        L: int | None,
    ) -> np.ndarray:
        """(L, D)."""
        columns = [] if L is None else [np.zeros((L, 0), np.float32)]
        for name, width in parts:
            dataset = child(demo, name)
            if dataset is None or not is_numeric(dataset):
                raise DataError(
                    f"{self.root}: {demo.name} lacks {name!r}, which {self._demos[0]} has; drop it"
                )
            values = matrix(dataset)
            L = len(values) if L is None else L
            if values.shape != (L, width):
                raise DataError(
                    f"{self.root}: {dataset.name} has shape {dataset.shape}, expected {L} x "
                    f"{width}; drop the demonstration"
                )
            columns.append(values)
        return np.concatenate(columns, axis=1)

    def _instruction(self, demo: Any) -> str:
        """Of the key: an attribute or dataset of the demonstration or of the file; else wherever
        language is kept."""
        data = demo.parent
        arguments = self.metadata.get("env_args", {})
        stored = (arguments.get("env_kwargs"), arguments, self.metadata.get("problem_info"))
        names = ("lang", "language", "language_instruction", "instruction")
        # Makers keep it in different places: that nearest to the demonstration counts.
        for name in (self.keys.instruction,) if self.keys.instruction is not None else names:
            for attributes in (demo.attrs, data.attrs):
                if name in attributes and text(attributes[name]):
                    return text(attributes[name])
            for place in (name, f"obs/{name}"):
                dataset = dataset_at(demo, place)
                if dataset is not None and dataset.size:
                    return text(dataset[()])
            for values in stored:
                if isinstance(values, dict) and isinstance(values.get(name), str):
                    return str(values[name])
        if self.keys.instruction is not None:
            known = [*demo.attrs, *data.attrs, *leaves(demo)]
            raise self._lacking("instruction", self.keys.instruction, known)
        return ""

    def _sizes(self, data: Any) -> dict[str, tuple[int, int]]:
        """(height, width) of each camera, the same in every demonstration."""
        sizes = {}
        for camera, place in self._cameras.items():
            first = tuple(data[self._demos[0]][place].shape[1:])
            for name in self._demos:
                dataset = dataset_at(data[name], place)
                shape = None if dataset is None else dataset.shape
                L = child(data[name], self._actions[0][0]).shape[0]
                if shape != (L, *first) or not is_image(dataset):
                    raise DataError(
                        f"{self.root}: {name}/{place} is {shape}, expected uint8 {(L, *first)}; "
                        "drop the demonstration or leave the camera out"
                    )
                check_stored(dataset)
            sizes[camera] = (int(first[0]), int(first[1]))
        return sizes

    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        place = self._cameras[camera]
        with opened(self.root) as file:
            for episode, first, lower, upper in self._step_ranges(start, stop):
                dataset = child(file, f"data/{self._demos[episode]}/{place}")
                if dataset is None:
                    raise DataError(
                        f"{self.root}: {self._demos[episode]}/{place} went away; open the dataset "
                        "again"
                    )
                for step, image in enumerate(blocks(dataset, lower, upper), start=lower):
                    yield first + step, image

    def fingerprint(self) -> str:
        return fingerprint(self.root, [self.root], self._demos, self._cameras)


def _is_demo(node: Any, needed: str | None) -> bool:
    """Whether it is a group, with what is `needed` in it."""
    return is_group(node) and (needed is None or child(node, needed) is not None)


def _numeric_names(demo: Any) -> list[str]:
    return [name for name, dataset in leaves(demo).items() if is_numeric(dataset)]


def _default_state(demo: Any) -> list[str]:
    """Of each robot position, orientation and gripper; if no robot has these, all numbers of `obs`,
    by name."""
    # robomimic's own choice for its policies from images: joint angles say the same again
    group = child(demo, "obs")
    if group is None:
        return []
    names = [name for name, dataset in leaves(group).items() if is_numeric(dataset)]
    matches = [re.fullmatch(r"(robot\d+)_eef_pos", name) for name in names]
    robots = sorted({match[1] for match in matches if match}, key=natural)
    own = [f"{robot}_{part}" for robot in robots for part in _PROPRIOCEPTION]
    own = [name for name in own if name in names]
    return [f"obs/{name}" for name in own or names]
