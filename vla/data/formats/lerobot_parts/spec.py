"""The spec of a LeRobot dataset: from its features and numbers, or as it was stored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vla.data import schema
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.common.action_limits import action_limits
from vla.data.formats.common.dimensions import Part
from vla.data.formats.common.files import read_json
from vla.data.formats.lerobot_parts.info import Feature, Info
from vla.data.formats.lerobot_parts.mapping import Mapping, camera_names
from vla.types import Spec, SpecError


def derive_spec(
    root: Path,
    info: Info,
    mapping: Mapping,
    actions: Callable[[], np.ndarray],
    hz: float | None,
) -> Spec:
    """Names and sizes from `info`, bounds from the actions (N, A) themselves.

    Raises DataError if the features cannot be a spec.
    """
    # Not from stats.json: quantiles and episodes that were left out of it may not hold all actions.
    low, high = action_limits(actions())
    cameras = _cameras(root, info, mapping)
    state_names = tuple(dimension_names(mapping.state))
    action_names = tuple(dimension_names(mapping.action))
    with _refused(root):
        return Spec(cameras, state_names, action_names, low, high, hz or info.fps)


def stored_spec(
    root: Path,
    info: Info,
    mapping: Mapping,
    keys: KeyMap,
    actions: Callable[[], np.ndarray],
) -> Spec:
    """The spec in the dataset's folder, with what `keys` choose in place of its own. Raises
    DataError."""
    path = root / schema.SPEC
    remedy = "restore the file, or delete it to derive the spec from info.json"
    try:
        spec = schema.spec_of(read_json(root, path, remedy))
    except SpecError as error:
        raise DataError(f"{path}: {error}; {remedy}") from error
    _check_stored(path, spec, info)
    if keys.cameras is None:
        # in the order of info.json, without those that the spec leaves out
        shared = [camera for camera in mapping.cameras if camera in spec.cameras]
        cameras = {camera: spec.cameras[camera] for camera in shared}
    else:
        cameras = _cameras(root, info, mapping)
    spec = replace(spec, cameras=cameras, control_hz=keys.control_hz or spec.control_hz)
    if keys.state is not None:
        spec = replace(spec, state_names=tuple(dimension_names(mapping.state)))
    if keys.action is not None:
        least, greatest = action_limits(actions())
        names = tuple(dimension_names(mapping.action))
        binary = tuple(name for name in spec.binary_actions if name in names)
        # a flag that is never set in these episodes keeps its two values all the same
        low, high = list(least), list(greatest)
        for name in binary:
            dim, before = names.index(name), spec.action_names.index(name)
            low[dim], high[dim] = spec.action_low[before], spec.action_high[before]
        with _refused(root):
            spec = replace(
                spec,
                action_names=names,
                action_low=tuple(low),
                action_high=tuple(high),
                binary_actions=binary,
            )
    return spec


def _check_stored(path: Path, spec: Spec, info: Info) -> None:
    """A stored spec and info.json were written by one writer and agree."""
    parts = ((schema.ACTION, "action", spec.action_dim), (schema.STATE, "state", spec.state_dim))
    for key, what, dims in parts:
        width = info.features[key].width if key in info.features else 0
        if width != dims:
            raise DataError(
                f"{path}: has {dims} {what} names, info.json says {width}; restore both files"
            )
    # by their names here, which camera_names makes of all of them together
    known = camera_names([name for name, feature in info.features.items() if feature.is_camera])
    missing = [camera for camera in spec.cameras if camera not in known]
    if missing:
        raise DataError(
            f"{path}: cameras {', '.join(missing)} are not among the features of info.json; "
            "restore both files"
        )
    if abs(spec.control_hz - info.fps) > 1e-6 * info.fps:
        raise DataError(
            f"{path}: control_hz is {spec.control_hz:g}, info.json says fps {info.fps:g}; restore "
            "both files"
        )


@contextlib.contextmanager
def _refused(root: Path) -> Iterator[None]:
    """Turns a SpecError into a DataError that names info.json."""
    try:
        yield
    except SpecError as error:
        raise DataError(f"{root / schema.INFO}: {error}; correct the features there") from error


def dimension_names(parts: Sequence[Part]) -> list[str]:
    """One name per dimension of `parts` side by side; with the feature before it if names would be
    given twice."""
    own = [(part.key, name) for part in parts for name in part.names]
    names = [name for _, name in own]
    if len(set(names)) == len(names):
        return names
    names = [f"{column.removeprefix('observation.')}.{name}" for column, name in own]
    if len(set(names)) == len(names):
        return names
    return [f"{name}.{place}" for place, name in enumerate(names)]


def _cameras(
    root: Path,
    info: Info,
    mapping: Mapping,
) -> dict[str, tuple[int, int]]:
    cameras = {}
    for camera, name in mapping.cameras.items():
        cameras[camera] = image_size(root, name, info.features[name])
    return cameras


def image_size(root: Path, name: str, feature: Feature) -> tuple[int, int]:
    """(height, width) of a feature of images, whose dimensions may be in any order that its names
    say."""
    shape = feature.shape
    if len(shape) != 3:
        raise DataError(
            f"{root / schema.INFO}: {name!r} has shape {shape}, expected height, width, channels; "
            "correct it"
        )
    names = feature.names if isinstance(feature.names, list) else []
    letters = [str(part)[:1].lower() for part in names]  # height, width, channel(s)
    if sorted(letters) != ["c", "h", "w"]:
        # No names: channels are where a number of channels stands, at the end if at both.
        channels_first = shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
        letters = ["c", "h", "w"] if channels_first else ["h", "w", "c"]
    size = dict(zip(letters, shape, strict=True))
    # Names that a tool wrote without looking: no image is three pixels high.
    if size["c"] not in (1, 3, 4) and size["h"] in (1, 3, 4):
        size = {"h": shape[1], "w": shape[2]}
    return size["h"], size["w"]
