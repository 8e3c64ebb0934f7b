"""`meta/modality.json` of GR00T's datasets: which parts of state and action are which limb, and
names of cameras and annotations.

    {"state": {"left_arm": {"start": 0, "end": 7}},
     "action": {"left_arm": {"start": 0, "end": 7, "original_key": "action"}},
     "video": {"ego_view": {"original_key": "observation.images.ego_view"}},
     "annotation": {"human.action.task_description": {}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla.data import schema
from vla.data.errors import DataError
from vla.data.formats.common.dimensions import Part
from vla.data.formats.common.files import read_json
from vla.data.formats.lerobot_parts.info import Feature

MODALITY = "meta/modality.json"
_USUAL_KEY = {"state": schema.STATE, "action": schema.ACTION}


@dataclass
class Modality:
    """What modality.json says; empty if there is none.

    Attributes:
        parts: `state` and `action` -> name of a part -> where it lies.
        cameras: feature -> what the camera is called.
        annotations: name of an annotation -> its column.
        warnings: what of it does not fit the features.
    """

    parts: dict[str, dict[str, Part]] = field(default_factory=dict)
    cameras: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def rename(self, column: str, names: list[str]) -> list[str]:
        """Names of the numbers of `column`, with those of the parts where there are parts."""
        renamed = list(names)
        for parts in self.parts.values():
            # the first part that holds a number names it: rotations may be there twice
            for part in reversed(parts.values()):
                if part.key != column:
                    continue
                for dim, name in zip(part.dims, part.names, strict=True):
                    renamed[dim] = name
        return renamed


def read_modality(root: Path, features: Mapping[str, Feature]) -> Modality:
    """A file that is damaged, or names what is not there, is a warning: the dataset can be read
    without it."""
    path = root / MODALITY
    found = Modality()
    if not path.is_file():
        return found
    try:
        values = read_json(root, path)
    except DataError as error:
        found.warnings.append(f"{error}; it is not used")
        return found
    for kind, usual in _USUAL_KEY.items():
        parts = {}
        for name, given in _entries(values, kind):
            part = _part(name, given, usual, features)
            if part is None:
                found.warnings.append(
                    f"{path}: {kind}: {name!r} is {given}, which is no range of a feature's "
                    "numbers; it is left out: correct it there"
                )
            else:
                parts[name] = part
        found.parts[kind] = parts
    for name, given in _entries(values, "video"):
        column = given.get("original_key") or f"{schema.IMAGE_PREFIX}{name}"
        found.cameras[str(column)] = name
    for name, given in _entries(values, "annotation"):
        found.annotations[name] = str(given.get("original_key") or f"annotation.{name}")
    return found


def _entries(values: dict[str, Any], kind: str) -> list[tuple[str, dict[str, Any]]]:
    entries = values.get(kind)
    if not isinstance(entries, dict):
        return []
    return [(name, given if isinstance(given, dict) else {}) for name, given in entries.items()]


def _part(
    name: str,
    given: dict[str, Any],
    usual: str,
    features: Mapping[str, Feature],
) -> Part | None:
    key = given.get("original_key") or usual
    feature = features.get(key) if isinstance(key, str) else None
    if feature is None or feature.is_camera:
        return None
    start = given.get("start", 0)
    end = given.get("end", feature.width)
    if not (isinstance(start, int) and isinstance(end, int)):
        return None
    if not 0 <= start < end <= feature.width:
        return None
    dims = tuple(range(start, end))
    # one number needs no place in its name: `gripper`
    names = (name,) if len(dims) == 1 else tuple(f"{name}_{i}" for i in range(len(dims)))
    return Part(key, dims, names)
