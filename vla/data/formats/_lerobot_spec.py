"""A spec for LeRobot datasets that were made elsewhere and store none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vla.data import schema
from vla.data.errors import DataError
from vla.types import Spec, SpecError

_SINGLE_IMAGE = "observation.image"


def image_features(features: dict[str, Any]) -> dict[str, str]:
    """camera -> feature name, for every image feature."""
    names = [name for name, feature in features.items() if feature.get("dtype") == "image"]
    return {name.removeprefix(schema.IMAGE_PREFIX) if name != _SINGLE_IMAGE else "image": name for name in names}


def derive_spec(root: Path, info: dict[str, Any], actions: Callable[[], np.ndarray]) -> Spec:
    """Names and sizes from `info`, action bounds from meta/stats.json or else from `actions()` (N, A).

    Raises DataError where the features cannot be a spec.
    """
    features = info["features"]
    cameras = {camera: _image_size(root, name, features[name]) for camera, name in image_features(features).items()}
    action_names = _dimension_names(schema.ACTION, features[schema.ACTION])
    low, high = _action_range(root, len(action_names), actions)
    # An action that never moves still needs an interval around it.
    still = high - low < 1e-6
    low, high = np.where(still, low - 1.0, low), np.where(still, high + 1.0, high)
    state_names = _dimension_names(schema.STATE, features[schema.STATE]) if schema.STATE in features else []
    try:
        return Spec(cameras, tuple(state_names), tuple(action_names), tuple(low), tuple(high), info["fps"])
    except SpecError as error:
        raise DataError(f"{root / schema.INFO}: {error}; correct the features there") from error


def _image_size(root: Path, name: str, feature: dict[str, Any]) -> tuple[int, int]:
    shape, names = [int(v) for v in feature["shape"]], feature.get("names") or ["height", "width", "channels"]
    if len(shape) != 3 or len(names) != 3:
        raise DataError(
            f"{root / schema.INFO}: {name!r} has shape {shape}, expected height, width, channels; correct it"
        )
    size = dict(zip((str(n)[0] for n in names), shape, strict=True))
    return size["h"], size["w"]


def _dimension_names(key: str, feature: dict[str, Any]) -> list[str]:
    width, names = int(feature["shape"][0]), feature.get("names")
    if isinstance(names, dict):
        names = next((v for v in names.values() if isinstance(v, list)), list(names))
    if isinstance(names, list) and len(names) == width:
        return [str(name) for name in names]
    stem = key.rpartition(".")[2]
    return [f"{stem}_{i}" for i in range(width)]


def _action_range(root: Path, width: int, actions: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    path = root / schema.STATS
    stats = json.loads(path.read_text()).get(schema.ACTION, {}) if path.exists() else {}
    low, high = (np.asarray(stats.get(key, []), dtype=np.float64).reshape(-1) for key in ("min", "max"))
    if len(low) != width or len(high) != width:
        values = actions()
        low, high = values.min(0).astype(np.float64), values.max(0).astype(np.float64)
    return low, high
