"""Checks of what the tables of a LeRobot dataset say of each other and of its files.

N: frames, E: episodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from vla.common.registry import register
from vla.data import schema
from vla.data.formats.lerobot_parts.missing import POINTERS, Loss, Losses
from vla.data.validation.check import LEROBOT, Finding, check
from vla.data.validation.checks.files import foreign_files
from vla.data.validation.examined import Examined, Numbers
from vla.data.validation.lerobot_parts import LeRobotParts
from vla.data.validation.repair_names import CORRECT_TOTALS, REBUILD_EPISODES, SORT_TASKS

_FILES = 20
_NAMED = 5
"""Files that a message names."""
_RETURN_TOLERANCE = 1e-4
"""Relative: other makers sum rewards in float32."""


@register("checks", "files")
@check("data and video files that the episodes are said to be in", formats=LEROBOT)
def files(examined: Examined) -> Iterator[Finding]:
    """Every file that an episode is said to be in is there."""
    for loss in lost_files(examined):
        names = [examined.name(path) for path in loss.files]
        listed = ", ".join(names[:_FILES]) + (", ..." if names[_FILES:] else "")
        remedy = "copy them from the dataset's source"
        if loss.cause == POINTERS:
            remedy = f"run `git lfs pull` in {examined.root}"
        left = "" if examined.dataset is None else "these episodes are left out; "
        message = f"{examined.root}: {loss.what}: {listed}; {left}{remedy}"
        yield Finding("files", "error", names[0], message)


def lost_files(examined: Examined) -> list[Loss]:
    """Files that the tables name and that are not here, by camera and cause."""
    parts = examined.lerobot
    if parts is None or parts.info is None or parts.table is None:
        return []
    read = None
    if examined.dataset is not None:
        reader: Any = examined.dataset.reader
        read = set(reader._mapping.cameras.values())
    losses = Losses(examined.root, list(parts.data_files))
    losses.look(list(parts.data_files.values()))
    found = losses.found
    for name, feature in parts.info.features.items():
        # cameras that the reader leaves out: its warnings say so
        if feature.dtype != "video" or (read is not None and name not in read):
            continue
        videos = parts.video_files(name)
        losses = Losses(examined.root, list(videos))
        losses.look(list(videos.values()), name.removeprefix(schema.IMAGE_PREFIX))
        found += losses.found
    return found


@register("checks", "unreferenced")
@check("files in the folders of data that no episode is in", formats=LEROBOT)
def unreferenced(examined: Examined) -> Iterator[Finding]:
    """Every file in the folders of data and videos belongs to an episode."""
    found = foreign_files(examined)
    if found:
        names = ", ".join(map(examined.name, found[:_NAMED])) + (", ..." if found[_NAMED:] else "")
        message = (
            f"{examined.root}: {len(found)} files in the folders of data and videos are of no "
            f"episode: {names}; nothing reads them, move them away if they are of no use"
        )
        yield Finding("unreferenced", "note", examined.name(found[0]), message)


@register("checks", "lengths")
@check("frames of each episode, against the table of episodes", formats=LEROBOT)
def lengths(examined: Examined) -> Iterator[Finding]:
    """Each episode has as many frames as the table of episodes says."""
    parts = examined.lerobot
    if parts is None or parts.table is None or "episode_index" not in parts.frames:
        return
    # whose file is not there, another check says
    lost = {number for loss in lost_files(examined) for number in loss.episodes}
    found = Counter(parts.frames["episode_index"][:, 0].tolist())  # frames per episode
    for index, length in zip(parts.table["episode_index"], parts.table["length"], strict=True):
        if found[index] == length or index in lost:
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
