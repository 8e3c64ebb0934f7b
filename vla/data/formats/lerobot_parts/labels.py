"""Which instruction each step of a LeRobot dataset follows.

E: episodes that are read, N: their frames, L: steps of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vla.data import schema
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.common.step_texts import held
from vla.data.formats.lerobot_parts.info import Feature
from vla.data.formats.lerobot_parts.modality import read_modality

_TASK_INDEX = "task_index"
_SUBTASK_INDEX = "subtask_index"
"""Indices into LeRobot's table of sub-tasks."""
_ANNOTATION = "annotation.human.action.task_description"
"""The column of GR00T's datasets: indices into the same table of tasks."""


@dataclass(frozen=True)
class Labels:
    """Attributes:
    instructions: row i is task_index i.
    task_index: of each episode's first step, int64 (E,).
    frame_tasks: of each frame, int64 (N,), if it changes within an episode; else None.
    warnings: what was odd.
    """

    instructions: list[str]
    task_index: np.ndarray
    frame_tasks: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)


def label(
    root: Path,
    keys: KeyMap,
    table: pd.DataFrame,
    *,
    tasks: Callable[[], dict[int, str]],
    subtasks: Callable[[], dict[int, str]],
    features: dict[str, Feature],
    values: Callable[[str], list[Any]],
) -> Labels:
    """A step's instruction is that of the column `task_index`, or of the one that `keys` name.

    Args:
        table: one row per episode, with `length`, `tasks`, and `task_index` if the table itself
            says it.
        tasks: reads the dataset's table task_index -> instruction.
        subtasks: reads its table subtask_index -> instruction.
        values: column -> its N values.

    Raises:
        DataError: an index has no instruction, or the column that `keys` name does not exist or
            holds neither.
    """
    if keys.task is not None and keys.instruction is None:
        return Labels([keys.task], np.zeros(len(table), np.int64))
    column = _column(root, keys, table, features)
    warnings = []
    if _SUBTASK_INDEX in features and keys.instruction is None:
        warnings.append(
            f"{root}: sub-tasks are not read; `instruction={_SUBTASK_INDEX}` reads them"
        )
    if column is not None:
        lengths = table["length"].to_numpy()
        found = _Values(root, f"column {column!r}", _unpacked(values(column)), lengths)
    elif _TASK_INDEX in table:
        found = _Values(root, "the table of episodes", table[_TASK_INDEX].tolist())
    else:
        # LeRobot lists all tasks of an episode's steps, in their order
        texts = [given[0] if given else None for given in table["tasks"]]
        several = sum(len(given) > 1 for given in table["tasks"])
        if several:
            warnings.append(
                f"{root}: {several} of {len(table)} episodes list several tasks and no column "
                f"{_TASK_INDEX!r} says of which steps: the first is read"
            )
        found = _Values(root, "the table of episodes", texts)
    # texts instead of indices need no table of tasks
    if any(isinstance(value, str) for value in found.values):
        return _from_texts(found, warnings, keys.task)
    if column is None and _TASK_INDEX not in table:  # all are missing, which is named there
        return _from_texts(found, warnings, keys.task)
    of_index = subtasks() if column == _SUBTASK_INDEX else tasks()
    return _from_indices(found, of_index, warnings, keys.task)


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
    # ours: with one task per episode the table says all, and no data file need be read
    if _TASK_INDEX in table and all(len(given) <= 1 for given in table["tasks"]):
        return None
    tasks = [column for name, column in annotations.items() if "task" in name]
    for name in (_TASK_INDEX, _ANNOTATION, *tasks):
        if name in features:
            return name
    return None


def _unpacked(values: list[Any]) -> list[Any]:
    """Lists of one value, as some makers store shape [1], become the value."""
    if not values or not isinstance(values[0], list):
        return values
    return [v[0] if isinstance(v, list) and len(v) == 1 else v for v in values]


@dataclass(frozen=True)
class _Values:
    """What says which instruction is followed.

    Attributes:
        root: of the dataset.
        place: where it stands, for messages.
        values: N values, or E if `lengths` is None.
        lengths: int (E,), steps of each episode.
    """

    root: Path
    place: str
    values: list[Any]
    lengths: np.ndarray | None = None

    def name(self, number: int) -> str:
        """What messages call a value."""
        if self.lengths is None:
            return f"{self.root}: episode {number}: {self.place}"
        ends = np.cumsum(self.lengths)
        episode = int(np.searchsorted(ends, number, side="right"))
        step = number - int(ends[episode] - self.lengths[episode])
        at = f"episode {episode}, step {step}" if step else f"episode {episode}"
        return f"{self.root}: {at}: {self.place}"

    def episodes(self) -> list[slice]:
        """Where the values of each episode lie."""
        lengths = np.ones(len(self.values), np.int64) if self.lengths is None else self.lengths
        ends = np.cumsum(lengths)
        return [slice(end - n, end) for end, n in zip(ends.tolist(), lengths.tolist(), strict=True)]


def _from_texts(found: _Values, warnings: list[str], task: str | None) -> Labels:
    """`task` stands for instructions that are missing, or the dataset's name."""
    texts: list[str] = []
    blank = 0
    missing = 0
    unnamed = task or found.root.resolve().name
    for own in found.episodes():
        given = ["" if text is None else text for text in found.values[own]]
        for step, text in enumerate(given):
            if not isinstance(text, str):
                raise _no_instruction(found, own.start + step)
        of_episode, of_blank = held(given)
        if of_episode[0]:
            blank += of_blank
        else:
            # before the first text of an episode nothing says what is done
            of_episode = [text or unnamed for text in of_episode]
            missing += 1
        texts += of_episode
    if blank:
        warnings.append(
            f"{found.root}: {found.place} is empty at {blank} steps: the instruction of the step "
            "before stands for it"
        )
    if missing and task is None:
        warnings.append(
            f"{missing} of {len(found.episodes())} episodes have no instruction: {unnamed!r} "
            "stands for it; give one (`task=WORDS`) or its key (`instruction=KEY`)"
        )
    instructions = list(dict.fromkeys(texts))  # each once, in the order of episodes
    row = {text: i for i, text in enumerate(instructions)}
    tasks = np.array([row[text] for text in texts], np.int64)
    return _labels(instructions, tasks, found, warnings)


def _no_instruction(found: _Values, number: int) -> DataError:
    return DataError(
        f"{found.name(number)} gives the instruction {found.values[number]!r}; write one there, or "
        "give one for all episodes (`task=WORDS`)"
    )


def _from_indices(
    found: _Values, tasks: dict[int, str], warnings: list[str], task: str | None
) -> Labels:
    for number, value in _unknown(found.values, tasks):
        raise DataError(
            f"{found.name(number)} says task {value!r}, the table of tasks has "
            f"{min(tasks, default='none')} to {max(tasks, default='none')}; restore the table "
            "of tasks, or give the instruction (`task=WORDS`)"
        )
    if not all(tasks[int(value)] for value in set(found.values)):
        texts = [tasks[int(value)] for value in found.values]
        return _from_texts(replace(found, values=texts), warnings, task)
    tasks = {index: text for index, text in tasks.items() if text}
    known = sorted(tasks)
    if known != list(range(len(known))):
        warnings.append(
            f"{found.root}: task indices have holes ({len(known)} tasks up to number {known[-1]}); "
            "they are closed"
        )
    instructions = [tasks[index] for index in known]
    rows = np.searchsorted(known, np.asarray(found.values, np.int64))
    return _labels(instructions, rows, found, warnings)


def _unknown(values: list[Any], tasks: dict[int, str]) -> Iterator[tuple[int, Any]]:
    """(number, value) of those that are no index of a task."""
    try:
        if not set(values) - tasks.keys():  # fast, for millions of frames
            return
    except TypeError:  # lists have no place in a set
        pass
    for number, value in enumerate(values):
        if not isinstance(value, int | float | np.integer) or value not in tasks:
            yield number, value


def _labels(
    instructions: list[str], tasks: np.ndarray, found: _Values, warnings: list[str]
) -> Labels:
    if found.lengths is None:
        return Labels(instructions, tasks, None, warnings)
    starts = np.cumsum(found.lengths) - found.lengths
    first = tasks[starts]
    changes = bool((tasks != np.repeat(first, found.lengths)).any())
    return Labels(instructions, first, tasks if changes else None, warnings)


def collect_tasks(pairs: list[tuple[Any, Any]], place: str) -> dict[int, str]:
    """task_index -> instruction, from rows in any order; empty where a row has none. Raises
    DataError if one is no such pair, or given twice."""
    tasks: dict[int, str] = {}
    for row, (index, text) in enumerate(pairs):
        # True is an int to Python
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise DataError(
                f"{place}: row {row}: task_index is {index!r}, expected a whole number; restore it"
            )
        text = "" if text is None else text
        if not isinstance(text, str):
            raise DataError(
                f"{place}: row {row}: the task is {text!r}, expected an instruction; restore it, "
                "or give it (`task=WORDS`)"
            )
        # twice the same is harmless; two texts of one index are not
        if tasks.get(index, text) != text:
            raise DataError(
                f"{place}: task_index {index} is {tasks[index]!r} and {text!r}; restore it"
            )
        tasks[index] = text if text.strip() else ""
    return tasks
