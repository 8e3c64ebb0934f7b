"""Minari datasets: one HDF5 file with a group for each episode, and a JSON file about the
environment.

Read without the package of that name, which makes the environment itself to learn the shapes of
some datasets: code that a data file chooses must not run when it is opened.

L: steps of an episode.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.registry import register
from vla.data.episode import Scalar
from vla.data.errors import DataError
from vla.data.format import Image, KeyMap
from vla.data.formats.common.episodic_reader import (
    EpisodeNumbers,
    EpisodicReader,
    camera_name,
    dimension_names,
)
from vla.data.formats.common.files import fingerprint, inside, parse_json, read_json
from vla.data.formats.common.hdf5 import (
    blocks,
    check_stored,
    child,
    children,
    dataset_at,
    is_image,
    is_numeric,
    leaves,
    matrix,
    opened,
    texts,
)
from vla.data.formats.common.image_size import file_image_size

ASSUMED_HZ = 20.0
"""If the keys do not say: Minari stores no control rate."""
_MAIN, _METADATA = "main_data.hdf5", "metadata.json"
_INSTRUCTIONS = (
    "observations/mission",
    "observations/instruction",
    "observations/language_instruction",
    "infos/instruction",
    "infos/mission",
)
_SUCCESSES = ("infos/success", "infos/is_success")
_JPEG = b"\xff\xd8"


@register("formats", "minari")
class MinariReader(EpisodicReader):
    """Reads a Minari dataset: the folder that holds `data`, or `data` itself. Opening reads all
    that are no images."""

    @classmethod
    def matches(cls, root: Path) -> bool:
        signs = (root / _MAIN, root / "data" / _MAIN, root / "data" / _METADATA)
        return any(path.is_file() for path in signs)

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        super().__init__(root, keys)
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
        self._file = inside(root, folder / _MAIN)
        if not self._file.is_file():
            raise DataError(f"{self._file}: no such file; copy it from the dataset's source")
        # The spaces are descriptions of envs that Minari's package would build.
        self.metadata = {key: value for key, value in stored.items() if not key.endswith("_space")}
        with opened(self._file) as file:
            self._groups = [name for name in children(file) if name.startswith("episode_")]
            if not self._groups:
                raise DataError(f"{self._file}: has no episodes; check that it was copied whole")
            self._check_count(stored.get("total_episodes"))
            first = leaves(file[self._groups[0]])  # what the first has, all must have
            self._cameras = self._find_cameras(first)
            self._actions = self._numeric(first, "action", self.keys.action, "actions")
            self._states = self._numeric(first, "state", self.keys.state, "observations")
            self._reward = self._one(first, "reward", self.keys.reward, ("rewards",))
            self._success = self._one(first, "success", self.keys.success, _SUCCESSES)
            self._read(file)

    def _check_count(self, stored: Any) -> None:
        if stored is not None and stored != len(self._groups):
            raise DataError(
                f"{self._file}: holds {len(self._groups)} episodes, {_METADATA} says {stored}; "
                "copy both files again"
            )

    # --- what is read as what ---------------------------------------------------------------------

    def _find(
        self,
        first: dict[str, Any],
        key: str,
        fits: Any,
    ) -> list[str]:
        """Paths below an episode: `key` itself, below `observations`, or all that lies below it."""
        for name in (key, f"observations/{key}"):
            # a space that is a dictionary lies as a group: all that is below it
            below = [path for path in first if path == name or path.startswith(f"{name}/")]
            found = [path for path in below if fits(first[path])]
            if found:
                return found
        return []

    def _find_cameras(self, first: dict[str, Any]) -> dict[str, str]:
        if self.keys.cameras is None:
            own = [name for name in first if name.startswith("observations")]
            own = [name for name in own if _is_camera(first[name])]
            return {camera_name(name.removeprefix("observations/")): name for name in own}
        found = {}
        for camera, key in self.keys.cameras.items():
            matches = self._find(first, key, _is_camera)
            if len(matches) != 1:
                known = [name for name in first if _is_camera(first[name])]
                raise self._lacking(f"camera {camera!r}", key, known)
            found[camera] = matches[0]
        return found

    def _numeric(
        self,
        first: dict[str, Any],
        what: str,
        keys: list[str] | None,
        default: str,
    ) -> list[tuple[str, int]]:
        """(path below an episode, width) of what is put side by side."""
        paths = []
        for key in [default] if keys is None else keys:
            found = self._find(first, key, _is_vector)
            # without keys the state may be missing: an env that shows images alone
            if not found and (keys is not None or what == "action"):
                raise self._lacking(what, key, [name for name in first if _is_vector(first[name])])
            paths += found
        if what == "action" and not paths:
            raise DataError(f"{self._file}: no action is read; name one of its keys `action`")
        widths = [1 if first[path].ndim == 1 else int(first[path].shape[1]) for path in paths]
        return list(zip(paths, widths, strict=True))

    def _one(
        self,
        first: dict[str, Any],
        what: str,
        key: str | None,
        conventions: tuple[str, ...],
    ) -> str | None:
        for name in (key,) if key is not None else conventions:
            dataset = first.get(name)
            if dataset is None or not is_numeric(dataset):
                continue
            if dataset.size == dataset.shape[0]:
                return name
        if key is not None:
            raise self._lacking(what, key, [name for name in first if is_numeric(first[name])])
        return None

    # --- reading ----------------------------------------------------------------------------------

    def _read(self, file: Any) -> None:
        episodes = [self._episode(child(file, name), name) for name in self._groups]
        self._assemble(
            episodes,
            cameras=self._sizes(file, [len(e.actions) for e in episodes]),
            state_names=_names(self._states, "observations", "state"),
            action_names=_names(self._actions, "actions", "action"),
            control_hz=self._control_rate(None, ASSUMED_HZ),
            unnamed_task=self._environment(),
        )

    def _environment(self) -> str:
        with contextlib.suppress(DataError):  # a name is all that is lost
            spec = parse_json(self.metadata.get("env_spec", ""), "env_spec")
            if isinstance(spec.get("id"), str):
                return str(spec["id"])
        return str(self.metadata.get("dataset_id") or self.root.name)

    def _episode(self, group: Any, name: str) -> EpisodeNumbers:
        L = int(self._dataset(group, self._actions[0][0]).shape[0])
        if not L:
            raise DataError(f"{self._file}: {name} has no actions; drop it")
        # `terminations`, not `truncations`: those are time limits
        ends = self._single(group, "terminations" if "terminations" in group else None, L)
        return EpisodeNumbers(
            name=name,
            state=self._columns_of(group, self._states, L),
            actions=self._columns_of(group, self._actions, L),
            rewards=self._single(group, self._reward, L),
            success=self._single(group, self._success, L) > 0,
            terminated=bool(ends[-1] > 0),
            instruction="",
            instructions=self._instructions_of(group),
            info=_scalars(group.attrs),
        )

    def _dataset(self, group: Any, path: str) -> Any:
        dataset = dataset_at(group, path)
        if dataset is None:
            raise DataError(
                f"{self._file}: {group.name} lacks {path!r}, which {self._groups[0]} has; drop it"
            )
        return dataset

    def _single(
        self,
        group: Any,
        path: str | None,
        L: int,
    ) -> np.ndarray:
        """(L,), zeros without a path."""
        return np.zeros(L) if path is None else self._columns_of(group, [(path, 1)], L)[:, 0]

    def _columns_of(
        self,
        group: Any,
        parts: list[tuple[str, int]],
        L: int,
    ) -> np.ndarray:
        """(L, D). Observations have a further one at the end, infos a further one at the beginning
        (of the reset)."""
        columns: list[np.ndarray] = [np.zeros((L, 0), np.float32)]
        for path, width in parts:
            dataset = self._dataset(group, path)
            values = matrix(dataset) if is_numeric(dataset) else np.zeros((0, 0))
            if len(values) == L + 1 and path.startswith(("observations", "infos/")):
                values = values[1:] if path.startswith("infos/") else values[:-1]
            if values.shape != (L, width):
                raise DataError(
                    f"{self._file}: {dataset.name} has shape {dataset.shape}, expected {L} x "
                    f"{width} for {L} actions; drop the episode"
                )
            columns.append(values)
        return np.concatenate(columns, axis=1)

    def _instructions_of(self, group: Any) -> list[str]:
        """All texts that the episode gives as instruction."""
        key = self.keys.instruction
        for name in _INSTRUCTIONS if key is None else (key, f"observations/{key}"):
            dataset = dataset_at(group, name)
            if dataset is not None and dataset.dtype.kind in "OS" and dataset.size:
                return texts(dataset[()])
        for name in ("instruction", "mission", "options/instruction") if key is None else (key,):
            if name in group.attrs and texts(group.attrs[name]):
                return texts(group.attrs[name])
        if key is not None:
            raise self._lacking("instruction", key, [*group.attrs, *leaves(group)])
        return []

    # --- images -----------------------------------------------------------------------------------

    def _sizes(self, file: Any, lengths: list[int]) -> dict[str, tuple[int, int]]:
        """(height, width) of each camera, after a look at all episodes."""
        sizes: dict[str, tuple[int, int]] = {}
        for camera, path in self._cameras.items():
            for name, L in zip(self._groups, lengths, strict=True):
                dataset = self._dataset(file[name], path)
                if not _is_camera(dataset) or dataset.shape[0] not in (L, L + 1):
                    raise DataError(
                        f"{self._file}: {dataset.name} is {dataset.dtype} {dataset.shape}, "
                        f"expected {L} images; drop the episode or leave the camera out"
                    )
                check_stored(dataset)
                # Of JPEG files the first alone is looked at: all would have to be opened.
                size = dataset.shape[1:3] if is_image(dataset) else None
                if camera not in sizes:
                    place = f"{self._file}: {dataset.name}"
                    sizes[camera] = size or file_image_size(bytes(dataset[0]), place)
                if size is not None and size != sizes[camera]:
                    raise DataError(
                        f"{self._file}: {dataset.name} is {size}, expected {sizes[camera]}; drop "
                        "the episode"
                    )
        return sizes

    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        with opened(self._file) as file:
            for episode, first, lower, upper in self._step_ranges(start, stop):
                dataset = self._dataset(file[self._groups[episode]], self._cameras[camera])
                packed = not is_image(dataset)
                for step, image in enumerate(blocks(dataset, lower, upper), start=lower):
                    yield first + step, bytes(image) if packed else image

    def fingerprint(self) -> str:
        return fingerprint(self.root, [self._file], self._cameras)


def _is_camera(dataset: Any) -> bool:
    """Images as they are, or JPEG files: of one length (L, bytes), or of several."""
    return is_image(dataset) or _is_packed(dataset)


def _is_packed(dataset: Any) -> bool:
    import h5py

    if dataset.shape is None or not dataset.shape or not dataset.shape[0]:
        return False
    several = dataset.ndim == 1 and h5py.check_vlen_dtype(dataset.dtype) == np.uint8
    # more than 64 bytes, the least a JPEG has: else these are small uint8 states
    one_length = dataset.ndim == 2 and dataset.dtype == np.uint8 and dataset.shape[1] > 64
    return (several or one_length) and bytes(dataset[0][:2]) == _JPEG


def _is_vector(dataset: Any) -> bool:
    return is_numeric(dataset) and not _is_packed(dataset)


def _names(
    parts: list[tuple[str, int]],
    whole: str,
    called: str,
) -> list[str]:
    return dimension_names([(called if path == whole else path, width) for path, width in parts])


def _scalars(attributes: Any) -> dict[str, Scalar]:
    """What stands at an episode: seed, options."""
    found: dict[str, Scalar] = {}
    for key in sorted(attributes):
        value = attributes[key]
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, str | bool | int) or (isinstance(value, float) and np.isfinite(value)):
            found[key] = value
    return found
