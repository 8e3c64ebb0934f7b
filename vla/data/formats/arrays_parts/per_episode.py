"""What single episodes say beside their states and actions: times, success, that they are empty.

L: steps of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.arrays_parts import roles
from vla.data.formats.arrays_parts.container import EpisodeArrays, OpenContainer
from vla.data.formats.arrays_parts.words import flattened, truth

MOST_ARRAYS = 2000
"""Of an episode, which has about twenty."""


def check_counts(root: Path, episodes: Sequence[EpisodeArrays]) -> None:
    """Raises DataError if an episode has more arrays than any recording."""
    for episode in episodes:
        if len(episode.arrays) > MOST_ARRAYS:
            raise DataError(
                f"{root}: {episode.name} has {len(episode.arrays)} arrays, expected at most "
                f"{MOST_ARRAYS}; store the steps of an episode as rows of one array"
            )


def empty_ones(
    episodes: Sequence[EpisodeArrays],
    entries: Sequence[str] | None,
    usual: Sequence[str],
) -> list[str]:
    """Names of the episodes whose actions have no rows.

    Args:
        entries: the key `action`; None if it is not given.
        usual: names of actions otherwise.
    """
    empty = []
    for episode in episodes:
        numbers = roles.numbers_per_step(episode.arrays, ())
        # observations of the reset may be there without any action
        keys = roles.first_of(usual, numbers)
        if entries:
            names = [entry.partition("[")[0] for entry in entries]
            keys = [key for key in numbers if key in names or key.rpartition("/")[2] in names]
        if keys and not any(numbers[key].rows for key in keys):
            empty.append(episode.name)
    return empty


def times_of(opened: OpenContainer, episode: EpisodeArrays, L: int) -> np.ndarray | None:
    """(L,), when each step was taken; None if the episode does not say, or counts its rows."""
    for name in roles.TIMES:
        for key, array in episode.arrays.items():
            named = key == name or key.endswith(f"/{name}")
            is_date = array.dtype.kind == "M" and len(array.shape) == 1
            # one observation may follow the last action
            if not named or not array.shape or array.rows not in (L, L + 1):
                continue
            if array.is_single or is_date:
                values = np.asarray(episode.read(opened, key)).reshape(-1)[:L]
                # dates of other units, such as days and ms, are brought to one
                if is_date:
                    values = values.astype("M8[ns]").astype(np.int64) / 1e9
                times = values.astype(np.float64)
                counted = np.array_equal(np.diff(times), np.ones(L - 1))
                return None if counted else times
    return None


def all_timed(times: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The times of all episodes; none if one of them has none."""
    known = [own for own in times if own is not None]
    return known if len(known) == len(times) else []


def rate_of(opened: OpenContainer, episode: EpisodeArrays, described: Mapping[str, Any]) -> Any:
    """What an episode says of its control rate, beside its arrays or as one number among them."""
    for name in roles.RATES:
        for key, array in episode.arrays.items():
            # of one row: a number per step is a measurement
            single = array.shape in ((), (1,)) and array.dtype.kind in "iuf"
            if single and key.rpartition("/")[2] == name:
                return float(np.asarray(opened.read(array, 0, 1)).reshape(()))
    return first_said(described, roles.RATES)


def said_of(episode: EpisodeArrays) -> Any:
    """What stands beside the arrays of whether the episode was solved; None if nothing does."""
    return first_said(flattened(episode.attributes), roles.SUCCESSES)


def unclear_success(episodes: Sequence[EpisodeArrays]) -> list[str]:
    """At most one sentence about what says neither yes nor no."""
    odd = []
    for episode in episodes:
        value = said_of(episode)
        if value is not None and truth(value) is None:
            odd.append(f"{value!r} of {episode.name}")
    if not odd:
        return []
    return [
        f"{len(odd)} of {len(episodes)} episodes say of their success neither yes nor no "
        f"({odd[0]}): they are taken for failures; write true or false, or attach successes "
        "(`vla data label`)"
    ]


def first_said(described: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value under the first of these names that has one."""
    for name in names:
        if described.get(name) is not None:
            return described[name]
    return None
