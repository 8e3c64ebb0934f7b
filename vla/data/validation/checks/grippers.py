"""Checks of grippers, whose conventions differ from lab to lab: 0 to 1, -1 to 1, open or closed.

L: steps of an episode.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from vla.common.registry import register
from vla.data.validation.check import Finding, check
from vla.data.validation.examined import Examined, Numbers

_SCALES = ((0, 1), (-1, 1), (0, 100), (0, 255), (0, 1000), (0, 0.04), (0, 0.08))
"""What grippers are commanded and sensed in: shares, per cent, bytes, the opening in metres."""
_SLACK = 0.1
"""Share of a scale by which a continuous gripper may miss its ends."""
_EPISODES = 2
"""A convention that fewer episodes have may be a mistake of one of them."""
_SURE = 0.5
"""Correlation above which a command is known to open or to close."""
_DELAY = 3
"""Steps that a gripper needs to follow."""


@register("checks", "grippers")
@check("gripper conventions that differ between episodes")
def grippers(examined: Examined) -> Iterator[Finding]:
    """All episodes command and sense the gripper in one convention."""
    numbers = examined.numbers
    if numbers is None or not np.isfinite(numbers.actions).all():
        return
    columns = (
        ("action", numbers.actions, numbers.action_names),
        ("state", numbers.state, numbers.state_names),
    )
    for what, values, names in columns:
        for dim, name in enumerate(names):
            named = "grip" in name.lower()
            yield from _mixed(numbers, what, name, values[:, dim], named)
    yield from _inverted(numbers)


def _mixed(
    numbers: Numbers, what: str, name: str, values_N: np.ndarray, named: bool
) -> Iterator[Finding]:
    """Two-valued commands, and whatever is called a gripper, of two scales."""
    episodes_of: dict[tuple[float, float], list[int]] = defaultdict(list)
    for episode, start, stop in numbers.episode_ranges:
        scale = _convention(values_N[start:stop], named)
        if scale is not None:
            episodes_of[scale].append(episode)
    common = {scale: e for scale, e in episodes_of.items() if len(e) >= _EPISODES}
    if len(common) != 2 or len(common) < len(episodes_of):
        return
    (first, some), (second, others) = sorted(common.items(), key=lambda item: -len(item[1]))
    listed = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
    message = (
        f"{what} {name!r} goes from {first[0]:g} to {first[1]:g} in {len(some)} episodes and from "
        f"{second[0]:g} to {second[1]:g} in {len(others)} ({listed}): two conventions, of which a "
        "policy learns the mean; bring them to one before you merge them"
    )
    yield Finding("grippers", "warning", f"episode {others[0]}", message)


def _convention(values_L: np.ndarray, named: bool) -> tuple[float, float] | None:
    """(closed or open, the other) as an episode says it; None if it does not."""
    distinct = np.unique(np.round(values_L, 4))
    # what is not called a gripper counts if it has two values, as a command to open or to close
    if len(distinct) < 2 or not (named or len(distinct) == 2):
        return None
    low, high = float(distinct[0]), float(distinct[-1])
    for scale in _SCALES:
        slack = _SLACK * (scale[1] - scale[0]) if named else 0.0
        if abs(low - scale[0]) <= slack and abs(high - scale[1]) <= slack:
            return scale
    return None


def _inverted(numbers: Numbers) -> Iterator[Finding]:
    """Episodes whose command opens where that of the others closes, as the gripper's state says."""
    command = _only_gripper(numbers.action_names)
    sensed = _only_gripper(numbers.state_names)
    if command is None or sensed is None:
        return
    signs = {}
    for episode, start, stop in numbers.episode_ranges:
        given = numbers.actions[start : stop - _DELAY, command]
        followed = numbers.state[start + _DELAY : stop, sensed]
        if len(given) > 2 * _DELAY and np.ptp(given) > 0 and np.ptp(followed) > 0:
            correlation = float(np.corrcoef(given, followed)[0, 1])
            if abs(correlation) > _SURE:
                signs[episode] = correlation > 0
    rare = min((True, False), key=list(signs.values()).count)
    odd = [episode for episode, sign in signs.items() if sign is rare]
    # by chance a gripper that meets an object may seem to go the other way, once
    if len(odd) < _EPISODES or len(odd) == len(signs):
        return
    if len(odd) < len(signs) / 20:
        return
    listed = ", ".join(map(str, odd[:5])) + (", ..." if len(odd) > 5 else "")
    message = (
        f"action {numbers.action_names[command]!r} moves {numbers.state_names[sensed]!r} the other "
        f"way in {len(odd)} of {len(signs)} episodes ({listed}): open and closed are swapped "
        "there; bring them to one convention"
    )
    yield Finding("grippers", "warning", f"episode {odd[0]}", message)


def _only_gripper(names: tuple[str, ...]) -> int | None:
    """The dimension of the gripper; None of two hands, and if no name says so."""
    found = [dim for dim, name in enumerate(names) if "grip" in name.lower()]
    return found[0] if len(found) == 1 else None
