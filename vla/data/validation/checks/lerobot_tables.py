"""Checks of what the tables of a LeRobot dataset say of each other and of its files.

N: frames, E: episodes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from vla.common.registry import register
from vla.data import schema
from vla.data.errors import DataError
from vla.data.formats.lerobot_parts.paths import fill
from vla.data.validation.check import LEROBOT, Finding, check
from vla.data.validation.checks.files import is_leftover
from vla.data.validation.examined import Examined, Numbers
from vla.data.validation.lerobot_parts import LeRobotParts
from vla.data.validation.repair_names import CORRECT_TOTALS, REBUILD_EPISODES, SORT_TASKS

_RETURN_TOLERANCE = 1e-4
"""Relative: other makers sum rewards in float32."""


@register("checks", "files")
@check("data and video files that the episodes are said to be in", formats=("lerobot",))
def files(examined: Examined) -> Iterator[Finding]:
    """Every file that the table of episodes points to is there."""
    parts = examined.lerobot
    if parts is None or parts.info is None or parts.table is None:
        return
    lost: Counter[str] = Counter()
    data = parts.info.data_path or schema.DATA_PATH
    video = parts.info.video_path or schema.VIDEO_PATH
    cameras = [name for name, feature in parts.info.features.items() if feature.dtype == "video"]
    for row in parts.table.to_dict("records"):
        names = [_filled(data, row, "data/")]
        for camera in cameras:
            names.append(_filled(video, row, f"videos/{camera}/", video_key=camera))
        for path in names:
            if path is not None and not (examined.root / path).is_file():
                lost[path] += 1
    for name, episodes in lost.items():
        message = (
            f"{examined.root / name}: no such file; {episodes} episodes are in it: copy it from "
            "the dataset's source"
        )
        yield Finding("files", "error", name, message)


def _filled(
    template: str,
    row: Mapping[Any, Any],
    prefix: str,
    **values: str,
) -> str | None:
    """Name of the file that a row of the episodes table points to; None if it does not say."""
    numbers = {key: row.get(f"{prefix}{key}") for key in ("chunk_index", "file_index")}
    if any(value is None or pd.isna(value) for value in numbers.values()):
        return None
    try:
        filled = {key: int(value) for key, value in numbers.items()}  # type: ignore[arg-type]
        return fill(template, prefix, **values, **filled)
    except (DataError, TypeError, ValueError, OverflowError):
        return None


@register("checks", "unreferenced")
@check("files in the folders of data that no episode is in", formats=LEROBOT)
def unreferenced(examined: Examined) -> Iterator[Finding]:
    """Every file in the folders of data and videos belongs to an episode."""
    parts = examined.lerobot
    if parts is None or parts.info is None or parts.table is None:
        return
    # keys may choose a split: the files of the other episodes would seem to be of no use
    if examined.dataset is None or examined.keys is not None:
        return
    reader: Any = examined.dataset.reader
    used = set()
    for segments in reader._videos.values():
        used |= {os.path.normpath(segment.path) for segment in segments}
    if {"data/chunk_index", "data/file_index"} <= set(parts.table):
        rows = parts.table[["data/chunk_index", "data/file_index"]].drop_duplicates()
        template = parts.info.data_path or schema.DATA_PATH
        names = [_filled(template, row, "data/") for row in rows.to_dict("records")]
        used |= {os.path.normpath(examined.root / name) for name in names if name is not None}
    else:
        used |= {os.path.normpath(path) for path in reader._files.paths}
    for path in examined.files:
        name = examined.name(path)
        is_data = name.startswith(("data/", "videos/")) and not is_leftover(path)
        if is_data and os.path.normpath(path) not in used:
            message = f"{path}: no episode is in this file; move it away if it is of no use"
            yield Finding("unreferenced", "warning", name, message)


@register("checks", "lengths")
@check("frames of each episode, against the table of episodes", formats=LEROBOT)
def lengths(examined: Examined) -> Iterator[Finding]:
    """Each episode has as many frames as the table of episodes says."""
    parts = examined.lerobot
    if parts is None or parts.table is None or "episode_index" not in parts.frames:
        return
    found = Counter(parts.frames["episode_index"][:, 0].tolist())  # frames per episode
    for index, length in zip(parts.table["episode_index"], parts.table["length"], strict=True):
        if found[index] == length:
            continue
        message = (
            f"{examined.root}: episode {int(index)} has {found[index]} frames in the data files "
            f"that can be read, the table of episodes says {int(length)}; restore the data folder"
        )
        yield Finding("lengths", "error", f"episode {int(index)}", message)


@register("checks", "totals")
@check("counts and splits of info.json", formats=LEROBOT)
def totals(examined: Examined) -> Iterator[Finding]:
    """The counts in info.json are those of the tables."""
    parts = examined.lerobot
    if parts is None or parts.info is None:
        return
    path = examined.root / schema.INFO
    total = parts.info.total_episodes
    rows = sum(len(table) for _, table in parts.tables)
    if total is not None and rows > total:
        message = (
            f"{path}: says {total} episodes, the episodes table has {rows}: the rest is of a "
            "killed writer and is not read; it goes away when the dataset is continued"
        )
        yield Finding("totals", "note" if examined.is_ours else "warning", schema.INFO, message)
    tasks = task_pairs(parts)
    stored = parts.info.total_tasks
    if not tasks or stored in (None, len(tasks)):
        return
    # of ours, instructions beyond the total are those of an episode that was never committed
    if not examined.is_ours or stored > len(tasks):
        message = f"{path}: total_tasks is {stored}, the table of tasks has {len(tasks)}"
        yield Finding("totals", "warning", schema.INFO, message, CORRECT_TOTALS)


def task_pairs(parts: LeRobotParts) -> list[tuple[Any, Any]]:
    """(task_index, instruction) as they lie in tasks.parquet; empty if it cannot be read."""
    table = parts.tasks
    if table is None or "task_index" not in table.column_names:
        return []
    # pandas writes an index without a name under the second one
    texts = [name for name in ("task", "__index_level_0__") if name in table.column_names]
    if not texts:
        return []
    indices = table.column("task_index").to_pylist()
    return list(zip(indices, table.column(texts[0]).to_pylist(), strict=True))


@register("checks", "tasks")
@check(
    "the table of tasks: row i must be task i, for LeRobot looks instructions up by row",
    formats=("lerobot",),
)
def tasks(examined: Examined) -> Iterator[Finding]:
    """Row i of the table of tasks is task i."""
    parts = examined.lerobot
    found = [] if parts is None else task_pairs(parts)
    indices = [index for index, _ in found]
    path = examined.root / schema.TASKS
    if indices == list(range(len(indices))):
        return
    are_counts = all(isinstance(index, int) for index in indices)
    # sorting repairs an order; with holes every episode would need another number
    if are_counts and sorted(indices) == list(range(len(indices))):
        message = (
            f"{path}: its rows are in the order {_some(indices)}; LeRobot would give every "
            "episode another's task"
        )
        yield Finding("tasks", "warning", schema.TASKS, message, SORT_TASKS)
    else:
        message = (
            f"{path}: task indices are {_some(indices)}, with holes or twice; `vla data convert` "
            "numbers them from 0"
        )
        yield Finding("tasks", "warning", schema.TASKS, message)


def _some(values: list[Any]) -> str:
    shown = ", ".join(map(str, values[:6]))
    return f"{shown}, ..." if len(values) > 6 else shown


@register("checks", "episodes_table")
@check(
    "success, return and terminated of the episodes table, against the frames",
    formats=("lerobot",),
)
def episodes_table(examined: Examined) -> Iterator[Finding]:
    """Results of each episode in the table of episodes are those of its frames."""
    parts = examined.lerobot
    numbers = examined.numbers
    if parts is None or numbers is None or parts.table is None:
        return
    true = derived(numbers)
    for row in parts.table.to_dict("records"):
        for name, value in true.get(int(row["episode_index"]), {}).items():
            if name in row and not _agree(row[name], value):
                message = (
                    f"{examined.root}: the episodes table says {name} {row[name]} of episode "
                    f"{int(row['episode_index'])}, its frames {value}"
                )
                place = f"episode {int(row['episode_index'])}"
                yield Finding("episodes_table", "error", place, message, REBUILD_EPISODES)


def derived(numbers: Numbers) -> dict[int, dict[str, bool | float]]:
    """Episode -> what its frames say of `success`, `return` and `terminated`."""
    found: dict[int, dict[str, bool | float]] = {}
    for episode, a, b in numbers.episode_ranges:
        values: dict[str, bool | float] = {}
        if numbers.success is not None:
            values["success"] = bool(numbers.success[a:b].any())
        if numbers.rewards is not None and np.isfinite(numbers.rewards[a:b]).all():
            values["return"] = float(numbers.rewards[a:b].sum(dtype=np.float64))
        if numbers.terminated is not None:
            values["terminated"] = bool(numbers.terminated[a:b].any())
        found[episode] = values
    return found


def _agree(stored: Any, true: bool | float) -> bool:
    try:
        if isinstance(true, bool):  # stored as 0 and 1 by some
            return bool(stored) == true
        return abs(float(stored) - true) <= _RETURN_TOLERANCE * max(1.0, abs(true))
    except (TypeError, ValueError):
        return False
