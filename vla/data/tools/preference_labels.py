"""Which of two parts of episodes somebody prefers: a file of JSON lines.

    {"a": {"episode": 3, "start": 0, "stop": 25}, "b": {...}, "prefers": "a"}

`episode` is what the dataset itself calls it, `start` the first step and `stop` the step behind the
last; `prefers` is a, b or equal. `vla data prefer` makes a page that writes such files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.common.files import check_plain
from vla.data.reader import EpisodeDataset

PREFERS = {"a": 1.0, "b": 0.0, "equal": 0.5}
"""What `prefers` may say -> the probability that a is better."""


@dataclass(frozen=True, order=True)
class Segment:
    """The steps [start, stop) of an episode, by the number that the dataset itself gives it."""

    episode: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"episode {self.episode}, steps {self.start} to {self.stop - 1}"


@dataclass(frozen=True)
class Preference:
    """Two segments, and the probability that the first is better: 1, 0 or 0.5."""

    a: Segment
    b: Segment
    a_is_better: float


def read_preferences(path: str | Path, dataset: EpisodeDataset) -> list[Preference]:
    """The preferences of a file, each once, in its order.

    Raises DataError naming the line if it cannot be read, names what the dataset does not have, or
    contradicts an earlier line about the same pair.
    """
    path = Path(path)
    check_plain(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; make one with `vla data prefer`")
    lengths = dict(
        zip(dataset.episode_numbers.tolist(), dataset.episodes["length"].astype(int), strict=True)
    )
    found: dict[tuple[Segment, Segment], tuple[int, Preference]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        preference = _preference(where, line, lengths)
        # either way round it is the same pair
        swapped = preference.b < preference.a
        pair = (preference.b, preference.a) if swapped else (preference.a, preference.b)
        first = 1 - preference.a_is_better if swapped else preference.a_is_better
        if pair not in found:
            found[pair] = (number, Preference(*pair, first))
        elif found[pair][1].a_is_better != first:
            raise DataError(
                f"{where}: contradicts line {found[pair][0]} about the same pair ({pair[0]}; "
                f"{pair[1]}); remove one of the two lines"
            )
    if not found:
        raise DataError(f"{path}: holds no preferences; make some with `vla data prefer`")
    return [preference for _, preference in found.values()]


def _preference(where: str, line: str, lengths: Mapping[int, int]) -> Preference:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: is no JSON ({error}); write one object a line") from error
    if not isinstance(values, dict) or set(values) != {"a", "b", "prefers"}:
        raise DataError(f"{where}: expected an object with the keys a, b and prefers")
    if not isinstance(values["prefers"], str) or values["prefers"] not in PREFERS:
        raise DataError(f"{where}: prefers: is {values['prefers']!r}; expected a, b or equal")
    a, b = (_segment(f"{where}: {key}", values[key], lengths) for key in ("a", "b"))
    if a == b:
        raise DataError(f"{where}: a and b are the same ({a}); compare two segments")
    return Preference(a, b, PREFERS[values["prefers"]])


def _segment(where: str, values: Any, lengths: Mapping[int, int]) -> Segment:
    keys = ("episode", "start", "stop")
    if not isinstance(values, dict) or set(values) != set(keys):
        raise DataError(f"{where}: expected an object with the keys episode, start and stop")
    for key in keys:
        # a truth value is a number to Python
        if not isinstance(values[key], int) or isinstance(values[key], bool):
            raise DataError(f"{where}.{key}: is {values[key]!r}; expected a whole number")
    segment = Segment(values["episode"], values["start"], values["stop"])
    if segment.episode not in lengths:
        raise DataError(f"{where}.episode: there is no episode {segment.episode} in the dataset")
    if not 0 <= segment.start < segment.stop <= lengths[segment.episode]:
        raise DataError(
            f"{where}: steps {segment.start} to {segment.stop - 1} of episode {segment.episode}, "
            f"which has {lengths[segment.episode]} steps; give 0 <= start < stop <= its length"
        )
    return segment


def draw_segment_pairs(
    task_index_E: np.ndarray,
    lengths_E: np.ndarray,
    *,
    pairs: int,
    steps: int,
    rng: np.random.Generator,
) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Pairs of segments (episode, start, stop) of two episodes of the same task.

    Args:
        task_index_E: the task of each episode.
        lengths_E: steps of each; shorter ones are shown whole.
        pairs: how many; fewer if no task has two episodes.
        steps: of a segment.
    """
    groups = [np.flatnonzero(task_index_E == task) for task in np.unique(task_index_E)]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return []
    # tasks by their number of episodes, so that every episode is drawn equally often
    sizes = np.array([len(group) for group in groups], float)
    found = []
    for task in rng.choice(len(groups), size=pairs, p=sizes / sizes.sum()).tolist():
        ends = []
        for episode in rng.choice(groups[task], size=2, replace=False).tolist():
            length = int(lengths_E[episode])
            start = int(rng.integers(max(1, length - steps + 1)))
            ends.append((int(episode), start, min(length, start + steps)))
        found.append((ends[0], ends[1]))
    return found


__all__ = ["Preference", "Segment", "draw_segment_pairs", "read_preferences"]
