"""Names of the numbers in a LeRobot feature, in all the shapes in which recorders write them."""

from __future__ import annotations

from typing import Any

from vla.data.formats.lerobot_parts.info import Feature


def flat_names(names: Any) -> list[str]:
    """All names in order: of lists of lists, `{"motors": [...]}`, `{"axes": {"x": 0, "y": 1}}`."""
    if isinstance(names, str):
        return [names]
    if isinstance(names, list):
        return [name for inner in names for name in flat_names(inner)]
    if not isinstance(names, dict):
        return []
    values = list(names.values())
    if any(isinstance(value, str | list | dict) for value in values):
        return flat_names(values)
    # {name: place}, in whatever order it was written
    if all(isinstance(value, int) for value in values):
        return sorted(names, key=lambda name: int(names[name]))
    return list(names)


def names_of(column: str, feature: Feature) -> list[str]:
    """One name for each number of a row: the feature's own if they fit, else made of the column's
    name."""
    own = flat_names(feature.names)
    if len(own) == feature.width:
        return own
    stem = column.rpartition(".")[2]
    return [f"{stem}_{i}" for i in range(feature.width)]


def names_problem(column: str, feature: Feature) -> str | None:
    """In words, why the names of a feature are not taken; None if they are, or there are none."""
    own = flat_names(feature.names)
    # as many as axes: these name the axes, such as ["state"], and not their entries
    if not own or len(own) in (feature.width, len(feature.shape)):
        return None
    return (
        f"names of {column!r} are {len(own)} ({', '.join(own[:4])}{', ...' if own[4:] else ''}), "
        f"a row has {feature.width} numbers: they are called {column.rpartition('.')[2]}_0 and so "
        "on; correct the names there"
    )
