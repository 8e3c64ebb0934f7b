"""What of a LeRobot dataset is a camera, the state, the action: by its names, by modality.json, or
by a KeyMap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla.data import schema
from vla.data.errors import DataError
from vla.data.extras import INTERVENTION, is_extra_name
from vla.data.format import KeyMap
from vla.data.formats.common.dimensions import Part, part
from vla.data.formats.lerobot_parts.conventions import (
    MAX_WIDTH,
    action_candidates,
    is_bookkeeping,
    is_vector,
    not_read,
    typed,
    usual_action,
    usual_state,
)
from vla.data.formats.lerobot_parts.info import NUMERIC, Feature
from vla.data.formats.lerobot_parts.modality import Modality, read_modality
from vla.data.formats.lerobot_parts.names import flat_names, names_of, names_problem

_SINGLE_IMAGE = "observation.image"


@dataclass(frozen=True)
class Mapping:
    """Features of the dataset by what they are.

    Attributes:
        cameras: camera -> feature.
        state, action: dimensions of features that are put side by side.
        reward, success: a feature, or None.
        extras: features that are kept beside all these.
        warnings: what was chosen by convention, and what is left out.
    """

    cameras: dict[str, str]
    state: list[Part]
    action: list[Part]
    reward: str | None
    success: str | None
    extras: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def numeric(self) -> list[str]:
        """All features that hold the numbers of a step, each once."""
        single = [name for name in (self.reward, self.success) if name is not None]
        return list(dict.fromkeys([*keys_of(self.state), *keys_of(self.action), *single]))


def keys_of(parts: Sequence[Part]) -> list[str]:
    """The features that parts are of, each once."""
    return list(dict.fromkeys(part.key for part in parts))


def map_features(
    root: Path,
    features: dict[str, Feature],
    keys: KeyMap,
    modality: Modality | None = None,
) -> Mapping:
    """What is read as what. Raises DataError if a key is no such feature, or nothing is the
    action."""
    path = root / schema.INFO
    modality = modality or read_modality(root, features)
    chooser = _Chooser(path, features, modality)
    cameras, depth = _map_cameras(path, features, keys, modality)
    state = chooser.parts("state", keys.state, usual_state)
    action = chooser.parts("action", keys.action, usual_action)
    reward = chooser.single("reward", keys.reward, schema.REWARD)
    if keys.success == "rewards":
        success = reward
        if reward is None:
            raise DataError(
                f"{path}: success=rewards: the dataset has no {schema.REWARD!r}; name the column "
                "of rewards (`reward=COLUMN`), or leave out `success`"
            )
    else:
        success = chooser.single("success", keys.success, schema.SUCCESS)
    instruction = keys.instruction or ""
    instruction = modality.annotations.get(instruction, instruction)
    # texts and indices are read as the instruction: they are no numbers that were left out
    used = {*keys_of(state), *keys_of(action), reward, success, instruction}
    extras = _map_extras(root, features, keys, used)
    used |= set(extras)
    chosen = keys.model_dump(exclude_none=True)
    state_keys, action_keys = keys_of(state), keys_of(action)
    left = not_read(features, {n for n in used if n}, state_keys, action_keys, chosen=set(chosen))
    warnings = [f"{path}: {sentence}" for sentence in (*chooser.warnings, *depth, *left)]
    return Mapping(
        cameras,
        state,
        action,
        reward,
        success,
        extras,
        (*modality.warnings, *dict.fromkeys(warnings)),
    )


class _Chooser:
    """Finds features by keys, or by the conventions of LeRobot."""

    def __init__(self, path: Path, features: dict[str, Feature], modality: Modality) -> None:
        self.path = path
        self.features = features
        self.modality = modality
        self.numeric = [name for name, feature in features.items() if feature.dtype in NUMERIC]
        self.warnings: list[str] = []

    def parts(
        self,
        what: str,
        named: list[str] | None,
        usual: Callable[[dict[str, Feature]], tuple[list[str], str]],
    ) -> list[Part]:
        """The dimensions that are the state or the action."""
        names, remark = usual(self.features)
        if named is not None:
            found = [self._part(what, entry, names) for entry in named]
        else:
            if remark:
                self.warnings.append(remark)
            if what == "action":
                # by convention alone: who names such a column has seen what it holds
                self._check_chunks(names)
            found = [self._whole(name) for name in names]
        if what == "action" and not found:
            raise self._no_action()
        for key in keys_of(found):
            problem = names_problem(key, self.features[key])
            if problem is not None:
                self.warnings.append(problem)
        return found

    def _names(self, key: str) -> list[str]:
        return self.modality.rename(key, names_of(key, self.features[key]))

    def _whole(self, key: str) -> Part:
        self._check_width(key)
        names = self._names(key)
        return Part(key, tuple(range(len(names))), tuple(names))

    def _check_width(self, key: str) -> None:
        feature = self.features[key]
        if feature.width > MAX_WIDTH:
            raise DataError(
                f"{self.path}: {key!r} has shape {feature.shape}, expected at most {MAX_WIDTH} "
                "numbers per step; correct it there, or name another key"
            )

    def _part(self, what: str, entry: str, usual: list[str]) -> Part:
        """What an entry of a key stands for: a feature, a part of modality.json, or a
        dimension."""
        named = entry.partition("[")[0]
        # before any names are made: a damaged shape may claim billions of them
        for key in (entry, named):
            if key in self.numeric:
                self._check_width(key)
        vectors = [name for name in self.numeric if self.features[name].width <= MAX_WIDTH]
        limbs = self.modality.parts.get(what, {})
        # The usual features of the role come first: state and action often share their names.
        for known in (
            {key: self._names(key) for key in usual},
            {name: limb.names for name, limb in limbs.items()},
            {key: self._names(key) for key in vectors},
            {key: names_of(key, self.features[key]) for key in usual},
        ):
            found = part(entry, known)
            if found is None:
                continue
            if found.key in limbs:
                limb = limbs[found.key]
                dims = tuple(limb.dims[dim] for dim in found.dims)
                return Part(limb.key, dims, found.names)
            return found
        there = [*limbs, *self.numeric]
        raise DataError(
            f"{self.path}: {what}: no feature {entry!r}; there are: {', '.join(there) or 'none'}; "
            "name one of them"
        )

    def single(self, what: str, named: str | None, usual: str) -> str | None:
        """A feature of one number per step; None if none is named and the usual one is not
        there."""
        name = named or (usual if usual in self.features else None)
        if name is None:
            return None
        if name not in self.numeric:
            raise DataError(
                f"{self.path}: {what}: no feature {name!r}; there are: "
                f"{', '.join(self.numeric) or 'none'}; name one of them"
            )
        if self.features[name].width != 1:
            raise DataError(
                f"{self.path}: {what}: {name!r} has shape {self.features[name].shape}, expected "
                "one number per step"
            )
        return name

    def _check_chunks(self, names: list[str]) -> None:
        """Several actions in a row are no action of so many dimensions."""
        for name in names:
            feature = self.features[name]
            rows = math.prod(feature.shape[:-1])
            # a matrix whose every number has a name (of two arms, say) is one action
            is_named = len(flat_names(feature.names)) == feature.width
            if rows > 1 and not is_named:
                first = f"{name}[:{feature.shape[-1]}]"
                raise DataError(
                    f"{self.path}: {name!r} has shape {feature.shape}: a chunk of {rows} actions "
                    f"in each row? `{typed('action', [first])}` reads the first of each, "
                    f"`{typed('action', [name])}` all {feature.width} numbers as one action"
                )

    def _no_action(self) -> DataError:
        there = ", ".join(self.features)
        candidates = action_candidates(self.features)
        remedy = "record actions, or name the keys that hold them by `action`"
        if candidates:
            remedy = f"name what is the action, for example `{typed('action', candidates)}`"
        return DataError(f"{self.path}: features lack 'action' (there are: {there}); {remedy}")


def _map_extras(
    root: Path, features: dict[str, Feature], keys: KeyMap, used: set[str | None]
) -> tuple[str, ...]:
    """Features that are kept as extra columns.

    Raises DataError if a key names one that there is not, or that has no numbers.
    """
    there = [name for name, feature in features.items() if is_vector(feature)]
    free = [name for name in there if name not in used and not is_bookkeeping(name)]
    if keys.extras is not None:
        for name in keys.extras:
            if name not in there:
                raise DataError(
                    f"{root / schema.INFO}: extras: no feature {name!r} of numbers; there are: "
                    f"{', '.join(free) or 'none'}; name some of them"
                )
        return tuple(keys.extras)
    # in a dataset that was written here, what is no feature of every dataset is an extra column
    if (root / schema.SPEC).exists():
        return tuple(name for name in free if is_extra_name(name))
    return tuple(name for name in free if name == INTERVENTION)


def _map_cameras(
    path: Path,
    features: dict[str, Feature],
    keys: KeyMap,
    modality: Modality,
) -> tuple[dict[str, str], list[str]]:
    """camera -> feature, and what to say of cameras that are left out."""
    images = [name for name, feature in features.items() if feature.is_camera]
    called = {name: feature for feature, name in modality.cameras.items() if feature in images}
    if keys.cameras is not None:
        for name in keys.cameras.values():
            if name not in images and name not in called:
                raise DataError(
                    f"{path}: cameras: no feature {name!r}; there are: "
                    f"{', '.join(images) or 'none'}; name one of them"
                )
        return {camera: called.get(name, name) for camera, name in keys.cameras.items()}, []
    cameras = {}
    for camera, name in camera_names(images).items():
        cameras[modality.cameras.get(name, camera)] = name
    depth = {camera: name for camera, name in cameras.items() if features[name].is_depth}
    cameras = {camera: name for camera, name in cameras.items() if camera not in depth}
    remarks = [
        f"the camera {name!r} measures depth and is left out; `cameras.{camera}={name}` reads it "
        "as an image, with all others that are wanted"
        for camera, name in depth.items()
    ]
    return cameras, remarks


def camera_names(images: Sequence[str]) -> dict[str, str]:
    """camera -> feature, for every feature of images; the feature's whole name if two would be
    called alike."""
    short = []
    for name in images:
        is_single = name == _SINGLE_IMAGE
        short.append("image" if is_single else name.removeprefix(schema.IMAGE_PREFIX))
    cameras = {}
    for camera, name in zip(short, images, strict=True):
        cameras[camera if short.count(camera) == 1 else name] = name
    return cameras
