"""RLDS datasets as TFDS stores them (Open X-Embodiment): TFRecords, read without TensorFlow.

L: steps of an episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.common.registry import register
from vla.data.episode import Scalar
from vla.data.errors import DataError
from vla.data.format import Image, KeyMap
from vla.data.formats.common.dimensions import Part
from vla.data.formats.common.episodic_reader import (
    EpisodeNumbers,
    EpisodicReader,
    camera_name,
    known_dimensions,
    part_names,
    whole_part,
)
from vla.data.formats.common.files import fingerprint, inside
from vla.data.formats.common.unread import unread_numbers
from vla.data.formats.rlds_parts.features import (
    FEATURES,
    Feature,
    Shard,
    looks_like_rlds,
    read_features,
    read_info,
    version_folder,
)
from vla.data.formats.rlds_parts.tfrecord import Example, index_records, read_record
from vla.data.storage.image_files import file_image_size

ASSUMED_HZ = 5.0
"""If the keys do not say: TFDS stores no control rate. It is that of Bridge."""
_OBSERVATION = "steps/observation/"
_STATES = (
    "observation/state",
    "observation/proprio",
    "observation/robot_state",
    "observation/eef_state",
)
_INSTRUCTIONS = (
    "language_instruction",
    "observation/natural_language_instruction",
    "observation/language_instruction",
    "observation/instruction",
    "natural_language_instruction",
    "instruction",
    "episode_metadata/language_instruction",
)
_MARKS = ("is_first", "is_last", "is_terminal", "discount", "reward")
"""What RLDS stores beside what was seen and done."""
_SUCCESSES = ("success", "is_success", "observation/success")


@dataclass(frozen=True)
class _Record:
    """Where an episode lies."""

    shard: Shard
    number: int
    place: int
    length: int

    @property
    def name(self) -> str:
        return f"{self.shard.path}: record {self.number}"


@register("formats", "rlds")
class RLDSReader(EpisodicReader):
    """Reads a TFDS folder `.../name/version`, or `.../name` in its newest version.

    Opening reads every record once, for numbers and checksums; images are read again when they are
    asked for.
    """

    @classmethod
    def matches(cls, root: Path) -> bool:
        return looks_like_rlds(root)

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        super().__init__(root, keys)
        self._folder = inside(root, version_folder(root))
        self._features = read_features(self._folder)
        info, shards = read_info(self._folder, self.keys.split)
        kept = ("name", "version", "description", "citation")
        self.metadata = {key: info[key] for key in kept if key in info}
        actions = self._under_first(("action", "actions"))
        states = self._under_first(_STATES)
        names = self._numeric_names("steps/")
        widths = {name: self._features[name].width for name in sorted(names)}
        self._known = known_dimensions(widths, (states, actions), {})
        self._actions = self._parts("action", self.keys.action, actions)
        self._states = self._parts("state", self.keys.state, states)
        self._rewards = self._one("reward", self.keys.reward, ("reward",))
        reward = None if self._rewards is None else self._rewards.name
        success = self._success_key(
            reward, [name.removeprefix("steps/") for name in self._features]
        )
        self._success = self._one("success", success, _SUCCESSES)
        self.recorded = self._recorded()
        self._instruction = self._one(
            "instruction", self.keys.instruction, _INSTRUCTIONS, text=True
        )
        self._cameras = self._find_cameras()
        if not self._actions:
            raise self._lacking("action", "action", self._numeric_names(""))
        self._warn_of_unread()
        self._blank: dict[str, int] = dict.fromkeys(self._cameras, 0)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._records: list[_Record] = []
        self._read(shards, name=str(info.get("name", root.name)))

    # --- what is read as what ---------------------------------------------------------------------

    def _feature(self, key: str) -> Feature | None:
        """By its name, with or without `steps/`."""
        return self._features.get(key) or self._features.get(f"steps/{key}")

    def _parts(self, what: str, keys: list[str] | None, default: list[str]) -> list[Part]:
        """What the keys name; by default the first convention, of a dictionary all, sorted."""
        if keys is not None:
            return self._chosen(what, keys, self._known, ("steps/",))
        return [whole_part(name, self._known) for name in default]

    def _under_first(self, conventions: tuple[str, ...]) -> list[str]:
        """Names of the features of numbers at the first of these names that has some."""
        for key in conventions:
            feature = self._feature(key)
            if feature is not None and feature.is_numeric:
                return [feature.name]
            if feature is None:
                # sorted: the order of a dictionary in features.json is that of its writer
                below = sorted(self._numeric_names(f"steps/{key}/"))
                if below:
                    return below
        return []

    def _numeric_names(self, prefix: str) -> list[str]:
        """Names of the features of numbers that begin with `prefix`."""
        numeric = [feature.name for feature in self._features.values() if feature.is_numeric]
        return [name for name in numeric if name.startswith(prefix)]

    def _recorded(self) -> frozenset[str]:
        ends = [self._feature(name) for name in ("is_terminal", "discount")]
        found = {
            "rewards": self._rewards is not None,
            "success": self._success is not None,
            "terminated": any(feature is not None and feature.is_numeric for feature in ends),
        }
        return frozenset(name for name, says in found.items() if says)

    def _warn_of_unread(self) -> None:
        """Of numbers and images of the steps that the keys could name."""
        if self.keys.state is None:
            read = {one.key for one in (*self._actions, *self._states)}
            others = (self._rewards, self._success)
            read |= {feature.name for feature in others if feature is not None}
            unread = {}
            for name in self._known:
                if name not in read and name.rpartition("/")[2] not in _MARKS:
                    unread[name.removeprefix("steps/")] = self._features[name].shape
            states, actions = (
                list(dict.fromkeys(one.key.removeprefix("steps/") for one in parts))
                for parts in (self._states, self._actions)
            )
            if not states and not unread:
                self.warnings.append("no state is read: its steps hold no other numbers")
            self.warnings += unread_numbers(unread, states, actions)
        if self.keys.cameras is not None:
            return
        read = {feature.name for feature in self._cameras.values()}
        for feature in self._features.values():
            looks = feature.kind in ("image", "video") or len(feature.shape) >= 3
            if looks and feature.name not in read and feature.name.startswith("steps/"):
                colour = f"`cameras.NAME={feature.name.removeprefix('steps/')}` reads it"
                why = colour if feature.is_image else "no colour images of 8 bits"
                self.warnings.append(
                    f"{feature.name.removeprefix('steps/')} is {feature.dtype or feature.kind} "
                    f"{feature.shape}: it is not read; {why}"
                )

    def _one(
        self,
        what: str,
        key: str | None,
        conventions: tuple[str, ...],
        *,
        text: bool = False,
    ) -> Feature | None:
        """One number per step, or a text."""

        def fits(feature: Feature) -> bool:
            return feature.is_text if text else feature.is_numeric and feature.width == 1

        for name in (key,) if key is not None else conventions:
            feature = self._feature(name)
            if feature is not None and fits(feature):
                return feature
        if key is not None:
            raise self._lacking(what, key, [f.name for f in self._features.values() if fits(f)])
        return None

    def _find_cameras(self) -> dict[str, Feature]:
        images = [f for f in self._features.values() if f.is_image and f.name.startswith("steps/")]
        cameras = {}
        if self.keys.cameras is None:
            for feature in sorted(images, key=lambda feature: feature.name):
                if feature.name.startswith(_OBSERVATION):
                    cameras[camera_name(feature.name.removeprefix(_OBSERVATION))] = feature
            return cameras
        for camera, key in self.keys.cameras.items():
            found = self._feature(key) or self._feature(f"observation/{key}")
            if found is None or found not in images:
                raise self._lacking(f"camera {camera!r}", key, [f.name for f in images])
            cameras[camera] = found
        return cameras

    # --- the pass over all records ----------------------------------------------------------------

    def _read(self, shards: list[Shard], name: str) -> None:
        # All of it, once: TFDS stores neither the lengths of episodes nor limits of actions.
        episodes = []
        empty = 0
        for shard in shards:
            places = index_records(shard.path)
            # a file that was cut off between two records looks whole
            if len(places) != shard.episodes:
                raise DataError(
                    f"{shard.path}: holds {len(places)} records, expected {shard.episodes}; copy "
                    "it again"
                )
            with open(shard.path, "rb") as file:
                for number, (place, length) in enumerate(places):
                    record = _Record(shard, number, place, length)
                    example = Example(read_record(file, place, length, record.name), record.name)
                    episode = self._episode(example, record)
                    if len(episode.actions):
                        episodes.append(episode)
                        self._records.append(record)
                    else:
                        empty += 1
        if empty:
            self.warnings.append(f"{empty} episodes without steps are left out")
        control_hz = self._control_rate(None, ASSUMED_HZ)
        self._assemble(
            episodes,
            cameras=self._seen_cameras(),
            state_names=part_names(self._states, self._known),
            action_names=part_names(self._actions, self._known),
            control_hz=control_hz,
            unnamed_task=name,
        )

    def _episode(self, example: Example, record: _Record) -> EpisodeNumbers:
        acted = self._features[self._actions[0].key]
        L = len(example.numbers(acted.name)) // acted.width
        where = record.name
        actions = self._side_by_side(example, self._actions, L, where)
        rewards = _matrix(example, [self._rewards] if self._rewards else [], L, where)
        success = _matrix(example, [self._success] if self._success else [], L, where)
        for camera, feature in self._cameras.items():
            self._measure(camera, feature, example, L, where)
        return EpisodeNumbers(
            name=where,
            state=self._side_by_side(example, self._states, L, where),
            actions=actions,
            rewards=rewards[:, 0] if self._rewards else np.zeros(L),
            success=success[:, 0] > 0 if self._success else np.zeros(L, bool),
            terminated=self._terminated(example, L, where),
            instruction="",
            info=self._info(example, record),
            instructions=self._texts_of(example, where),
        )

    def _side_by_side(
        self,
        example: Example,
        parts: list[Part],
        L: int,
        where: str,
    ) -> np.ndarray:
        """(L, D)."""
        columns = [np.zeros((L, 0), np.float32)]
        for one in parts:
            values = _matrix(example, [self._features[one.key]], L, where)
            columns.append(values[:, list(one.dims)])
        return np.concatenate(columns, axis=1)

    def _terminated(self, example: Example, L: int, where: str) -> bool:
        """Whether the last step is terminal: by `is_terminal`, or else by a discount of 0."""
        # not by `is_last`, which time limits set too
        for name in ("is_terminal", "discount"):
            feature = self._feature(name)
            if feature is not None and feature.is_numeric and L:
                last = _matrix(example, [feature], L, where)[-1, 0]
                return bool(last > 0 if name == "is_terminal" else last == 0)
        return False

    def _texts_of(self, example: Example, where: str) -> list[str]:
        """The instructions of the episode's steps, or its one; blank where there is none."""
        feature = self._instruction
        values = None if feature is None else example.get(feature.name)
        if feature is None or values is None:
            return []
        try:
            if isinstance(values, list):
                return [value.decode() for value in values]
            # one row of byte values per step, filled up with zeros
            rows = values.reshape(-1, feature.width)
            return [bytes(codes[codes > 0].tolist()).decode() for codes in rows]
        except ValueError as error:
            raise DataError(
                f"{where}: {feature.name!r} is no UTF-8 text: {error}; choose another key"
            ) from error

    def _info(self, example: Example, record: _Record) -> dict[str, Scalar]:
        """What stands beside the steps: single numbers and texts."""
        info: dict[str, Scalar] = {"split": record.shard.split}
        for feature in self._features.values():
            if feature.name.startswith("steps/") or not feature.plain:
                continue
            values = example.get(feature.name)
            if values is None or len(values) != 1:
                continue
            key = feature.name.removeprefix("episode_metadata/")
            value = values[0]
            if isinstance(value, bytes):
                if feature.kind == "text":
                    info[key] = value.decode(errors="replace")
            elif np.isfinite(value):  # info is saved as strict JSON
                info[key] = bool(value) if feature.dtype == "bool" else value.item()
        return info

    def _measure(
        self,
        camera: str,
        feature: Feature,
        example: Example,
        L: int,
        where: str,
    ) -> None:
        """Counts the camera's empty images, and finds its size if features.json does not say."""
        if feature.kind == "tensor":
            self._sizes[camera] = feature.shape[:2]  # type: ignore[assignment]
            if len(example.numbers(feature.name)) != L * feature.width:
                raise DataError(
                    f"{where}: {feature.name!r} has not {L} images; make the dataset again"
                )
            return
        files = _files(example, feature, L, where)
        self._blank[camera] += sum(not data for data in files)
        if camera in self._sizes:
            return
        there = [data for data in files if data]
        if min(feature.shape[:2]) > 0:  # -1: of any size
            self._sizes[camera] = feature.shape[:2]  # type: ignore[assignment]
        elif there:
            self._sizes[camera] = file_image_size(there[0], f"{where}: {feature.name!r}")

    def _seen_cameras(self) -> dict[str, tuple[int, int]]:
        """The cameras with images; those that never have one are left out."""
        for camera, blank in self._blank.items():
            if camera in self._sizes and blank:
                self.warnings.append(
                    f"camera {camera!r}: {blank} images are empty and read as black"
                )
            elif blank:
                self.warnings.append(
                    f"camera {camera!r} is left out: all its {blank} images are empty"
                )
        return {camera: self._sizes[camera] for camera in self._cameras if camera in self._sizes}

    # --- images -----------------------------------------------------------------------------------

    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        feature = self._cameras[camera]
        size = self.spec.cameras[camera]
        for episode, first, lower, upper in self._step_ranges(start, stop):
            record = self._records[episode]
            L = int(self.episodes["length"][episode])
            # A record is one episode with all its images: less than that cannot be read.
            example = self._example(record)
            if feature.kind == "tensor":
                frames = _frames(example, feature, L, size, record.name)
                for step in range(lower, upper):
                    yield first + step, frames[step]
                continue
            files = _files(example, feature, L, record.name)
            for step in range(lower, upper):
                # an empty string stands for an image that is missing
                yield first + step, files[step] or np.zeros((*size, 3), np.uint8)

    def _example(self, record: _Record) -> Example:
        try:
            with open(record.shard.path, "rb") as file:
                data = read_record(file, record.place, record.length, record.name)
            return Example(data, record.name)
        except OSError as error:
            raise DataError(
                f"{record.shard.path}: cannot be read: {error}; restore the file"
            ) from error

    def fingerprint(self) -> str:
        files = {record.shard.path for record in self._records} | {self._folder / FEATURES}
        cameras = {camera: feature.name for camera, feature in self._cameras.items()}
        return fingerprint(self.root, files, self.keys.split, cameras)


def _matrix(
    example: Example,
    features: list[Feature],
    L: int,
    where: str,
) -> np.ndarray:
    """The features side by side as (L, D)."""
    parts = [np.zeros((L, 0), np.float32)]
    for feature in features:
        values = example.numbers(feature.name)
        if len(values) != L * feature.width:
            raise DataError(
                f"{where}: {feature.name!r} has {len(values)} numbers, expected {feature.width} "
                f"for each of {L} steps; make the dataset again, or choose other keys"
            )
        parts.append(values.reshape(L, feature.width))
    return np.concatenate(parts, axis=1)


def _frames(
    example: Example,
    feature: Feature,
    L: int,
    size: tuple[int, int],
    where: str,
) -> np.ndarray:
    """uint8 (L, H, W, 3) of images that lie in the record as int64."""
    values = example.numbers(feature.name)
    # the range too: astype would take 256 for 0
    if values.size != L * size[0] * size[1] * 3 or values.min() < 0 or values.max() > 255:
        raise DataError(f"{where}: {feature.name!r} has not {L} images; make the dataset again")
    return values.reshape(L, *size, 3).astype(np.uint8)


def _files(
    example: Example,
    feature: Feature,
    L: int,
    where: str,
) -> list[bytes]:
    files = example.files(feature.name)
    if len(files) != L:
        raise DataError(
            f"{where}: {feature.name!r} has {len(files)} images for {L} steps; make the dataset "
            "again"
        )
    return files
