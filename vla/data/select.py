"""Choosing episodes by number: `0:100`, `3,7,10:20`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla.data.errors import DataError

Episodes = str | Sequence[int]
"""Episodes as numbers, or as text: numbers and ranges (`start:stop`, stop excluded), separated by
commas."""


def chosen_episodes(episodes: Episodes | None, total: int, where: str) -> list[int]:
    """The episodes chosen among `total`, in the order given; all if `episodes` is None.

    Args:
        where: begins the message of an error.

    Raises:
        DataError: the text is none of this kind, there is no such episode, or one is chosen twice.
    """
    if episodes is None:
        return list(range(total))
    if isinstance(episodes, str):
        chosen = _parsed(episodes, total, where)
    else:
        chosen = [int(e) for e in episodes]
    # No negative numbers from the end: `-1` in a config is more often a mistake than the last one.
    for index in chosen:
        if not 0 <= index < total:
            raise DataError(f"{where}: episode {index}: there are episodes 0 to {total - 1}")
    unique, counts = np.unique(chosen, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{where}: episode {unique[counts > 1][0]} is chosen twice; name it once")
    return chosen


def _parsed(text: str, total: int, where: str) -> list[int]:
    chosen: list[int] = []
    for part in text.split(","):
        start, colon, stop = part.strip().partition(":")
        try:
            if colon:  # open ends as in Python: `:10`, `90:`
                first = int(start) if start else 0
                last = int(stop) if stop else total
            else:
                first = int(start)
                last = first + 1
        except ValueError:
            raise DataError(
                f"{where}: episodes {text!r}: {part!r} is no number and no range; expected for "
                "example 0:100 or 3,7,10:20"
            ) from None
        if last > total or first > last:
            raise DataError(
                f"{where}: episodes {text!r}: there are episodes 0 to {total - 1}; the end is "
                "excluded"
            )
        chosen += range(first, last)
    return chosen
