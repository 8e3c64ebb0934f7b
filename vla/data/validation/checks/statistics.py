"""Checks of stored statistics, which LeRobot's trainers normalise by.

N: frames, D: numbers of a feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vla.common.registry import register
from vla.data import schema
from vla.data.errors import DataError
from vla.data.formats.common.files import read_json, read_json_lines
from vla.data.statistics import QUANTILES, FeatureStats, merge_stats
from vla.data.validation.check import LEROBOT, Finding, check
from vla.data.validation.examined import Examined
from vla.data.validation.lerobot_parts import LeRobotParts
from vla.data.validation.repair_names import REWRITE_STATS

_TOLERANCE = 1e-4  # of other makers, who computed in float32
_EXACT = 1e-9  # of ours, relative to the largest value
_MOMENTS = ("min", "max", "mean", "std")
EPISODES_STATS = "meta/episodes_stats.jsonl"


@register("checks", "statistics")
@check("stats.json against the true statistics of all frames", formats=LEROBOT)
def statistics(examined: Examined) -> Iterator[Finding]:
    """stats.json is that of the frames."""
    parts = examined.lerobot
    path = examined.root / schema.STATS
    if parts is None or not parts.data:
        return
    fix = REWRITE_STATS if examined.format == "lerobot" else ""
    try:
        stored = read_json(examined.root, path, "write it again (`vla data validate --fix`)")
    except DataError as error:
        # version 2.1 keeps them with the episodes
        if not path.exists() and examined.format == "lerobot_v2":
            return
        yield Finding("statistics", "warning", schema.STATS, str(error), fix)
        return
    # Of images only if they are ours: others took other frames, or all of them.
    images = merged_images(parts) if examined.is_ours else {}
    true = true_stats(parts)
    for name, expected in (true | images).items():
        if name not in stored and name not in true:
            continue
        odd = _differing(stored.get(name), expected, examined.is_ours)
        if odd is not None:
            message = f"{path}: {name!r}: {odd}; LeRobot's trainers would normalise by it"
            yield Finding("statistics", "warning", schema.STATS, message, fix)


def true_stats(parts: LeRobotParts) -> dict[str, FeatureStats]:
    """Statistics of the committed frames as `stats.json` holds them: exact, but for quantiles,
    which are those of episodes averaged. Features that are not finite are left out."""
    episodes = list(parts.episode_stats.values())
    found = {}
    for name in parts.numeric:
        if episodes and all(name in stats for stats in episodes):
            found[name] = merge_stats([stats[name] for stats in episodes])
    return found


def merged_images(parts: LeRobotParts) -> dict[str, FeatureStats]:
    """Statistics of cameras, from those of episodes in the episodes table; empty if it has none."""
    if parts.info is None or parts.table is None:
        return {}
    found = {}
    for name, feature in parts.info.features.items():
        columns = {key: f"stats/{name}/{key}" for key in (*_MOMENTS, "count", *QUANTILES)}
        if not feature.is_camera or not set(columns.values()) <= set(parts.table):
            continue
        rows = parts.table[list(columns.values())].to_dict("records")
        episodes = [{key: _array(row[c]) for key, c in columns.items()} for row in rows]
        found[name] = merge_stats(episodes)
    return found


def _array(value: Any) -> np.ndarray:
    """Nested lists, as pandas returns them: arrays of arrays."""
    array = np.asarray(value)
    return array if array.dtype != object else np.stack([_array(v) for v in array])


def _differing(stored: Any, expected: FeatureStats, exact: bool) -> str | None:
    """In words, the first statistic that is not the true one."""
    if not isinstance(stored, dict):
        return "is missing"
    largest = [float(np.abs(expected[key]).max()) for key in ("max", "min")]
    scale = max(1e-6, *largest)
    # relative to the feature's largest value, so that a mean near 0 needs no digits of its own
    tolerance = (_EXACT if exact else _TOLERANCE) * scale
    # quantiles of ours alone: other makers average them in other ways, or not at all
    for key in (*_MOMENTS, "count", *(QUANTILES if exact else ())):
        if key not in stored and key == "count":
            continue
        try:
            found = np.asarray(stored[key], np.float64).reshape(-1)
        except (KeyError, TypeError, ValueError):
            return f"{key} is missing or no numbers"
        true = expected[key].reshape(-1).astype(np.float64)
        if found.shape != true.shape:
            return f"{key} has {len(found)} numbers, expected {len(true)}"
        off = ~(np.abs(found - true) <= tolerance)  # also NaN
        if off.any():
            dim = int(off.argmax())
            return f"{key}[{dim}] is {found[dim]:.6g}, the frames have {true[dim]:.6g}"
    return None


@register("checks", "episode_statistics")
@check(
    "statistics of each episode against its frames: a checksum of sorts",
    formats=LEROBOT,
)
def episode_statistics(examined: Examined) -> Iterator[Finding]:
    """Statistics of each episode are those of its frames: they find a change of any number."""
    parts = examined.lerobot
    if parts is None or not parts.data:
        return
    for index, stored in _stored(parts, examined):
        for name, true in parts.episode_stats.get(index, {}).items():
            odd = None if name not in stored else _differing(stored[name], true, examined.is_ours)
            if odd is not None:
                message = (
                    f"{examined.root}: episode {index}: {name!r}: its statistics say otherwise: "
                    f"{odd}; the file changed after it was written, or its statistics were never "
                    "true: compare it with its source"
                )
                yield Finding("episode_statistics", "warning", f"episode {index}", message)


def _stored(
    parts: LeRobotParts, examined: Examined
) -> Iterator[tuple[int, dict[str, dict[str, Any]]]]:
    """(episode, feature -> statistics) as the dataset holds them."""
    if examined.format == "lerobot_v2":
        try:
            rows = read_json_lines(examined.root, examined.root / EPISODES_STATS)
        except DataError:
            return
        for row in rows:
            if isinstance(row.get("episode_index"), int) and isinstance(row.get("stats"), dict):
                yield row["episode_index"], row["stats"]
        return
    if parts.table is None:
        return
    columns = [str(name) for name in parts.table if str(name).startswith("stats/")]
    for record in parts.table[["episode_index", *columns]].to_dict("records"):
        found: dict[str, dict[str, Any]] = {}
        for column in columns:
            feature, _, key = column.removeprefix("stats/").rpartition("/")
            found.setdefault(feature, {})[key] = record[column]
        yield int(record["episode_index"]), found
