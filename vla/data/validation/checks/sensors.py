"""Checks of single dimensions: numbers that no sensor gives, and sensors that stand still.

N: frames, D: dimensions, L: steps of an episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.common.registry import register
from vla.data.select import how_to_delete
from vla.data.validation.check import Finding, check
from vla.data.validation.examined import Examined, Numbers
from vla.data.validation.outliers import outliers_of

_CONSTANT = 10
"""Fewer frames may well be the same by chance."""
_MANY = 10
"""Episodes that are needed to say what is usual."""


@register("checks", "outliers")
@check("numbers that lie absurdly far from all others, such as 1e30")
def outliers(examined: Examined) -> Iterator[Finding]:
    """No single number is so large that normalisation would flatten all others."""
    numbers = examined.numbers
    if numbers is None or not len(numbers.episode):
        return
    for what, values, names in _columns(numbers):
        for found in outliers_of(examined.root, what, values, names, numbers.episode):
            yield Finding("outliers", "warning", f"episode {found.episode}", found.sentence)


@register("checks", "constant_state")
@check("dimensions of the state that never move")
def constant_state(examined: Examined) -> Iterator[Finding]:
    """Every dimension of the state tells something."""
    numbers = examined.numbers
    if numbers is None or len(numbers.state) < _CONSTANT:
        return
    constant = (numbers.state == numbers.state[0]).all(0)
    if constant.any():
        names = ", ".join(numbers.state_names[dim] for dim in np.flatnonzero(constant))
        moving = ",".join(numbers.state_names[dim] for dim in np.flatnonzero(~constant))
        message = (
            f"never move: {names}; a policy learns nothing from them, and whatever they are on "
            f"another day is new to it: leave them out by the key state=[{moving}]"
        )
        yield Finding("constant_state", "note", "state", message)


@register("checks", "stuck")
@check("sensors and commands that stand still in single episodes, or from some step on")
def stuck(examined: Examined) -> Iterator[Finding]:
    """No dimension that moves in other episodes stands still in one, nor the whole state."""
    numbers = examined.numbers
    if numbers is None:
        return
    yield from _stopped(examined.root, numbers)
    ranges = [r for r in numbers.episode_ranges if r[2] - r[1] >= _CONSTANT]
    if len(ranges) < _MANY:
        return
    for what, values, names in _columns(numbers):
        still_ED = np.stack([(values[a:b] == values[a]).all(0) for _, a, b in ranges])
        for dim, name in enumerate(names):
            still = np.flatnonzero(still_ED[:, dim])
            # of what often stands still, such as a drawer that is not to be opened, nothing is odd
            if 0 < len(still) <= len(ranges) / 20:
                listed = ", ".join(str(ranges[e][0]) for e in still[:5])
                message = (
                    f"{what}: {name!r} stands still in episodes {listed}"
                    f"{', ...' if len(still) > 5 else ''} and moves in the other "
                    f"{len(ranges) - len(still)}: look whether its sensor was stuck"
                )
                place = f"episode {ranges[still[0]][0]}"
                yield Finding("stuck", "note", place, message)


def _stopped(root: Path, numbers: Numbers) -> Iterator[Finding]:
    """Episodes in which the whole state stays the same while the actions go on changing."""
    if numbers.state.shape[1] < 2:
        return
    found = []
    for episode, start, stop in numbers.episode_ranges:
        same = (np.diff(numbers.state[start:stop], axis=0) == 0).all(1)
        moved = (np.diff(numbers.actions[start:stop], axis=0) != 0).any(1)
        # over so many steps in a row, at each of which another action was given
        if _longest_run(same & moved) >= _CONSTANT:
            found.append(episode)
    if found:
        listed = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        message = (
            f"the whole state stays the same for {_CONSTANT} steps and more while the actions "
            f"change, in episodes {listed}: the state was not read there; leave them out "
            f"(`{how_to_delete(root, found)}`)"
        )
        yield Finding("stuck", "warning", f"episode {found[0]}", message)


def _longest_run(flags: np.ndarray) -> int:
    """The greatest number of True in a row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _columns(numbers: Numbers) -> list[tuple[str, np.ndarray, tuple[str, ...]]]:
    """(what, values (N, D), names of the dimensions)."""
    return [
        ("state", numbers.state, numbers.state_names),
        ("actions", numbers.actions, numbers.action_names),
    ]
