"""Which instruction each episode of a LeRobot dataset follows.

E: episodes that are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vla.data import schema
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.lerobot_parts.info import Feature
from vla.data.formats.lerobot_parts.modality import read_modality

_TASK_INDEX = "task_index"
_ANNOTATION = "annotation.human.action.task_description"
"""The column of GR00T's datasets: indices into the same table of tasks."""


@dataclass(frozen=True)
class Labels:
    """Attributes:
    instructions: row i is task_index i.
    task_index: int64 (E,).
    warnings: what was odd.
    """

    instructions: list[str]
    task_index: np.ndarray
    warnings: list[str] = field(default_factory=list)


def label(
    root: Path,
    keys: KeyMap,
    table: pd.DataFrame,
    *,
    tasks: Callable[[], dict[int, str]],
    features: dict[str, Feature],
    first_values: Callable[[str], list[Any]],
) -> Labels:
    """An episode's instruction is that of its first step, by the column `task_index` or the one
    that `keys` name.

    Args:
        table: one row per episode, with `tasks`, and `task_index` if the table itself says it.
        tasks: reads the dataset's table task_index -> instruction.
        first_values: column -> its value at each episode's first step.

    Raises:
        DataError: an index has no instruction, or the column that `keys` name does not exist or
            holds neither.
    """
    if keys.task is not None:
        return Labels([keys.task], np.zeros(len(table), np.int64))
    column = _column(root, keys, table, features)
    if column is None and _TASK_INDEX not in table:
        # the first of several: LeRobot lists all tasks of an episode's steps, in their order
        texts = [given[0] if given else None for given in table["tasks"]]
        return _from_texts(root, texts, "the table of episodes")
    if column is None:
        values = table[_TASK_INDEX].tolist()
        place = "the table of episodes"
    else:
        values = first_values(column)
        place = f"column {column!r}"
    # a column of texts instead of indices, which needs no table of tasks
    if all(isinstance(value, str) for value in values):
        return _from_texts(root, values, place)
    return _from_indices(root, values, tasks(), place)


def _column(
    root: Path, keys: KeyMap, table: pd.DataFrame, features: dict[str, Feature]
) -> str | None:
    """The column to read; None if the table of episodes says it."""
    annotations = read_modality(root, features).annotations
    if keys.instruction is not None:
        named = annotations.get(keys.instruction, keys.instruction)
        if named in features:
            return named
        raise DataError(
            f"{root / schema.INFO}: instruction: no feature {keys.instruction!r}; "
            f"there are: {', '.join([*annotations, *features])}; name one of them"
        )
    if _TASK_INDEX in table:
        return None
    tasks = [column for name, column in annotations.items() if "task" in name]
    for name in (_TASK_INDEX, _ANNOTATION, *tasks):
        if name in features:
            return name
    return None


def _from_texts(root: Path, texts: list[Any], place: str) -> Labels:
    for episode, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{root}: episode {episode}: {place} gives the instruction {text!r}; write one "
                "there, or give one for all episodes by the key `task`"
            )
    instructions = list(dict.fromkeys(texts))  # each once, in the order of episodes
    task_index = [instructions.index(text) for text in texts]
    return Labels(instructions, np.asarray(task_index, np.int64))


def _from_indices(
    root: Path,
    values: list[Any],
    tasks: dict[int, str],
    place: str,
) -> Labels:
    warnings = []
    for episode, value in enumerate(values):
        if not isinstance(value, int | float | np.integer) or value not in tasks:
            raise DataError(
                f"{root}: episode {episode}: {place} says task {value!r}, the table of tasks has "
                f"{min(tasks, default='none')} to {max(tasks, default='none')}; restore the table "
                "of tasks, or give the instruction by the key `task`"
            )
    known = sorted(tasks)
    if known != list(range(len(known))):
        warnings.append(
            f"{root}: task indices have holes ({len(known)} tasks up to number {known[-1]}); they "
            "are closed"
        )
    instructions = [tasks[index] for index in known]
    place_of = {index: row for row, index in enumerate(known)}
    task_index = np.asarray([place_of[int(value)] for value in values], np.int64)
    return Labels(instructions, task_index, warnings)


def collect_tasks(pairs: list[tuple[Any, Any]], place: str) -> dict[int, str]:
    """task_index -> instruction, from rows in any order. Raises DataError if one is no such pair,
    or given twice."""
    tasks: dict[int, str] = {}
    for row, (index, text) in enumerate(pairs):
        # True is an int to Python
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise DataError(
                f"{place}: row {row}: task_index is {index!r}, expected a whole number; restore it"
            )
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{place}: row {row}: the task is {text!r}, expected an instruction; restore it, "
                "or give it by the key `task`"
            )
        # twice the same is harmless; two texts of one index are not
        if tasks.get(index, text) != text:
            raise DataError(
                f"{place}: task_index {index} is {tasks[index]!r} and {text!r}; restore it"
            )
        tasks[index] = text
    return tasks
