"""Named extra columns of a dataset's steps: log-probabilities, interventions, costs, advantages.

They are features of the LeRobot file like any other, so what is written here opens elsewhere.

L: steps of an episode, D: numbers per step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vla.data.errors import DataError

INTERVENTION = "intervention"
"""Whether a human or expert acted at the step: the column that LeRobot's recorders write."""
VALID_ACTIONS = "valid_actions"
"""Of the chunk that begins at the step, how many actions may be learned."""
ACTION_CHUNK = "action_chunk"
"""The actions to learn from a step on, (K * A,), where they are not those of the rows that follow:
labels of states that another policy has visited."""
PRIVILEGED = "privileged"
"""What only a simulator knows of the world at the step, such as friction and payload, (L, D)."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_RESERVED = re.compile(r"action|timestamp|frame_index|episode_index|index|task_index|subtask_index")
_RESERVED_PREFIXES = ("observation.", "next.", "action.")
_KINDS: dict[str, type[np.generic]] = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}
_MAX_WIDTH = 2**16


def extra_dtype(stored: str) -> type[np.generic]:
    """The type in which a column of this type, by its name in info.json, is held."""
    return _KINDS[np.dtype(stored).kind]


def as_stored(values: np.ndarray) -> np.ndarray:
    """The same numbers in the type in which they are stored: float32, int64 or bool."""
    values = np.asarray(values)
    kind = _KINDS.get(values.dtype.kind)
    if kind is None:
        raise DataError(f"holds {values.dtype}; give numbers or truth values")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        return values.astype(kind, copy=False)


def extra_features(extras: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The `features` of info.json for the extra columns (L,) or (L, D) of an episode."""
    found = {}
    for name, values in extras.items():
        width = 1 if np.ndim(values) == 1 else np.shape(values)[1]
        dtype = as_stored(values).dtype.name
        found[name] = {"dtype": dtype, "shape": [width], "names": None}
    return found


def is_extra_name(name: str) -> bool:
    """Whether an extra column may be called so: LeRobot uses no such name itself."""
    reserved = _RESERVED.fullmatch(name) or name.startswith(_RESERVED_PREFIXES)
    return bool(_NAME.fullmatch(name)) and not reserved


def check_extras(where: str, extras: Mapping[str, np.ndarray], steps: int) -> None:
    """Raises DataError if a column has a name that is taken, another length, or no finite numbers.

    Args:
        where: what messages call the episode.
        steps: L.
    """
    for name, values in extras.items():
        place = f"{where}: extras: {name!r}"
        if not is_extra_name(name):
            raise DataError(
                f"{place}: is no name of an extra column; use letters, digits, '_' and '.', and "
                "none that LeRobot uses itself (action, index, observation..., next...)"
            )
        shape = np.shape(values)
        if (
            len(shape) not in (1, 2)
            or shape[0] != steps
            or not 1 <= np.prod(shape[1:]) < _MAX_WIDTH
        ):
            raise DataError(
                f"{place}: shape is {shape}, expected ({steps},) or ({steps}, D): a row per action"
            )
        try:
            stored = as_stored(values)
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
        if not np.isfinite(stored).all():
            step = int(np.flatnonzero(~np.isfinite(stored).reshape(steps, -1).all(1))[0])
            raise DataError(
                f"{place}: step {step}: is NaN or infinite; leave the column out, or give a number"
            )


def check_same_columns(
    where: str, extras: Mapping[str, np.ndarray], features: Mapping[str, dict[str, Any]]
) -> None:
    """Raises DataError if an episode's extra columns are not those of the dataset.

    Args:
        features: of info.json, the dataset's extra columns alone.
    """
    found = extra_features(extras)
    if found != dict(features):
        raise DataError(
            f"{where}: extras: {_listed(found)}; the dataset's other episodes have "
            f"{_listed(features)}: give every episode the same columns"
        )


def _listed(features: Mapping[str, dict[str, Any]]) -> str:
    texts = [f"{name} ({f['dtype']}, {f['shape'][0]})" for name, f in features.items()]
    return ", ".join(texts) or "none"


__all__ = [
    "ACTION_CHUNK",
    "INTERVENTION",
    "VALID_ACTIONS",
    "as_stored",
    "check_extras",
    "check_same_columns",
    "extra_dtype",
    "extra_features",
    "is_extra_name",
]
