"""Choosing episodes by number: `0:100`, `3,7,10:20`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vla.data.errors import DataError

Episodes = str | Sequence[int]
"""Episodes as numbers, or as text: numbers and ranges (`start:stop`, stop excluded), separated by
commas."""


def chosen_episodes(
    episodes: Episodes | None,
    total: int | Sequence[int],
    where: str,
    *,
    missing: Sequence[int] = (),
    is_dropped: bool = False,
) -> list[int]:
    """The places of the episodes that are chosen, in the order given; all if `episodes` is None.

    Args:
        total: how many episodes there are, or what the dataset calls each of them: then numbers
            are these, and a range means those of its numbers that there are.
        where: begins the message of an error.
        missing: numbers of episodes that the dataset names and that cannot be read.
        is_dropped: whether the chosen episodes go: then those that are missing may be named.

    Raises:
        DataError: the text is none of this kind, there is no such episode, or one is chosen twice.
    """
    numbers = list(range(total)) if isinstance(total, int) else [int(n) for n in total]
    if episodes is None:
        return list(range(len(numbers)))
    place_of = {number: place for place, number in enumerate(numbers)}
    end = max([*numbers, *missing], default=-1) + 1
    if isinstance(episodes, str):
        chosen = _parsed(episodes, place_of, end, where)
    else:
        chosen = [int(e) for e in episodes]
    if is_dropped:
        chosen = [index for index in chosen if index not in missing]
    # No negative numbers from the end: `-1` in a config is more often a mistake than the last one.
    for index in chosen:
        if index in missing:
            raise DataError(
                f"{where}: episode {index}: its files are missing; restore them, or leave it out"
            )
        if index not in place_of:
            raise DataError(f"{where}: episode {index}: there are episodes {_listed(numbers)}")
    unique, counts = np.unique(chosen, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{where}: episode {unique[counts > 1][0]} is chosen twice; name it once")
    return [place_of[index] for index in chosen]


def how_to_delete(root: Path | str, numbers: Sequence[int]) -> str:
    """The command that writes a dataset without these episodes, beside it."""
    # beside the dataset and under a name that tells: nothing is written over
    return (
        f"vla data delete {shlex.quote(str(root))} {shlex.quote(f'{root}_without')} --episodes "
        f"{typed(numbers)}"
    )


def finite_remedy(root: Path | str, numbers: Sequence[int], total: int) -> str:
    """What to do about episodes with numbers that are not finite.

    Args:
        numbers: of these episodes.
        total: how many episodes there are.
    """
    if len(numbers) == total:
        # with every episode a dimension can go, but not the episodes
        return "every episode has some: repair the recording, or name the other dimensions by key"
    return f"leave them out (`{how_to_delete(root, numbers)}`) or repair the recording"


def typed(numbers: Sequence[int]) -> str:
    """Numbers of episodes as `--episodes` takes them: `0,3:7`."""
    parts = []
    ascending = sorted(numbers)
    start = 0
    for place, number in enumerate(ascending):
        following = ascending[place + 1] if place + 1 < len(ascending) else None
        if following == number + 1:
            continue
        first = ascending[start]
        parts.append(str(first) if first == number else f"{first}:{number + 1}")
        start = place + 1
    return ",".join(parts)


def _listed(numbers: Sequence[int]) -> str:
    """`0 to 9`, and whether some between them are not there."""
    if not numbers:
        return "none"
    shown = f"{numbers[0]} to {numbers[-1]}"
    holes = numbers[-1] - numbers[0] + 1 - len(numbers)
    return f"{shown}, without {holes} between them" if holes else shown


def _parsed(
    text: str,
    place_of: Mapping[int, int],
    end: int,
    where: str,
) -> list[int]:
    chosen: list[int] = []
    for part in text.split(","):
        start, colon, stop = part.strip().partition(":")
        try:
            if colon:  # open ends as in Python: `:10`, `90:`
                first = int(start) if start else 0
                last = int(stop) if stop else end
            else:
                first = int(start)
                last = first + 1
        except ValueError:
            raise DataError(
                f"{where}: episodes {text!r}: {part!r} is no number and no range; expected for "
                "example 0:100 or 3,7,10:20"
            ) from None
        if last > end or first > last or (colon and first < 0):
            raise DataError(
                f"{where}: episodes {text!r}: there are episodes {_listed(list(place_of))}; the "
                "end is excluded"
            )
        # A range passes over numbers that the dataset does not have; a number must be there.
        chosen += [n for n in range(first, last) if n in place_of or not colon]
    return chosen
