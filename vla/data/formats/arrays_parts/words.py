"""What stands beside the arrays of an episode: attributes, and JSON files of the same name or in
the same folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.episode import Scalar
from vla.data.errors import DataError
from vla.data.formats.common.files import inside, read_json
from vla.data.formats.common.hdf5 import text, texts

_NAMES = ("meta.json", "metadata.json", "info.json", "episode.json")
_YES = ("true", "yes", "y", "1", "1.0", "success", "successful", "succeeded", "solved")
_NO = ("false", "no", "n", "0", "0.0", "failure", "fail", "failed", "unsuccessful", "not solved")
_TRUTH = dict.fromkeys(_YES, True) | dict.fromkeys(_NO, False)
"""As people and spreadsheets write whether an episode was solved."""
_DEPTH = 4
"""Of objects within objects: deeper is no description."""


def side_files(root: Path, path: Path, warnings: list[str]) -> dict[str, Any]:
    """What the JSON files beside a container say. One that is no JSON is a warning."""
    found: dict[str, Any] = {}
    # a file of the same name says more than one of the folder
    for file in (*(path.parent / name for name in _NAMES), path.with_suffix(".json")):
        if not file.is_file():
            continue
        try:
            found |= read_json(root if root.is_dir() else root.parent, inside(path.parent, file))
        except DataError as error:
            warnings.append(f"{error}: it is not read")
    return found


def of_episode(described: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What a description of a whole file says of one of its episodes.

    Args:
        described: of a file.
        names: of the episode: keys of the description, or `traj_3` for the one of `episodes` whose
            `episode_id` is 3, as ManiSkill writes it.
    """
    shared = {key: value for key, value in described.items() if key != "episodes"}
    listed = described.get("episodes")
    for name in names:
        own = described.get(name)
        if isinstance(own, dict):
            shared |= own
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and f"traj_{entry.get('episode_id')}" == name:
                shared |= entry
    return shared


def flattened(described: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Texts, numbers and truth values by their own names; what lies further out counts first.
    Objects that are stored as JSON text are looked into."""
    found: dict[str, Any] = {}
    inner = []
    for key, value in described.items():
        plain = _plain(value)
        if isinstance(plain, dict):
            inner.append(plain)
        elif plain is not None:
            found[key] = plain
    for value in inner if depth < _DEPTH else ():
        for key, plain in flattened(value, depth + 1).items():
            found.setdefault(key, plain)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict | bool | int | float):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()
    if isinstance(value, list) and value:
        return _plain(value[0]) if isinstance(value[0], str) else None
    words = text(value)
    if words.startswith("{"):
        try:
            return json.loads(words)
        except (ValueError, RecursionError):
            return None
    return words or None


def truth(value: Any) -> bool | None:
    """Whether a description says yes, as a truth value, a number or a text; None if it says neither
    yes nor no."""
    if isinstance(value, str):
        return _TRUTH.get(value.strip().lower())
    if isinstance(value, bool | int | float):
        return value > 0
    return None


def texts_at(described: Mapping[str, Any], name: str) -> list[str]:
    """All texts under a name: an instruction may be given in several wordings or languages."""
    value = described.get(name)
    if isinstance(value, list):
        return [one for one in value if isinstance(one, str)]
    return texts(value) if isinstance(value, np.ndarray) else []


def scalars(described: Mapping[str, Any]) -> dict[str, Scalar]:
    """What can be kept as the info of an episode."""
    found: dict[str, Scalar] = {}
    for key, value in sorted(described.items()):
        is_finite = isinstance(value, float) and bool(np.isfinite(value))
        if isinstance(value, str | bool | int) or is_finite:
            found[key] = value
    return found
