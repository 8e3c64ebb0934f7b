"""Checks of states and actions.

N: frames, D: dimensions.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.common.registry import register
from vla.data.episode import beyond
from vla.data.formats.common.rates import unit_of
from vla.data.select import finite_remedy
from vla.data.validation.check import LEROBOT, Finding, check
from vla.data.validation.examined import Examined, Numbers

_CONSTANT = 10
"""Fewer frames may well have the same action by chance."""
_LISTED = 3


@register("checks", "finite")
@check("NaN and infinite numbers in every column")
def finite(examined: Examined) -> Iterator[Finding]:
    """No number is NaN or infinite: an error in what is trained on, a warning in other columns."""
    numbers = examined.numbers
    if numbers is not None:
        read = [
            ("state", numbers.state, numbers.state_names),
            ("actions", numbers.actions, numbers.action_names),
        ]
        if numbers.rewards is not None:
            read.append(("rewards", numbers.rewards[:, None], ("reward",)))
        for what, values, names in read:
            for dim in np.flatnonzero(~np.isfinite(values).all(0)):
                yield _not_finite(examined.root, numbers, what, names[dim], values[:, dim])
    if examined.lerobot is None:
        return
    for part in examined.lerobot.data:
        for name, values in part.columns.items():
            bad = ~np.isfinite(values).all(1)  # bool (rows,)
            if bad.any():
                message = (
                    f"{part.path}: column {name!r} is not finite in {int(bad.sum())} rows, first "
                    f"in {bad.argmax()}"
                )
                yield Finding("finite", "warning", examined.name(part.path), message)


def _not_finite(
    root: Path,
    numbers: Numbers,
    what: str,
    name: str,
    values: np.ndarray,
) -> Finding:
    bad = ~np.isfinite(values)
    frame = int(bad.argmax())
    containing = [(e, a) for e, a, b in numbers.episode_ranges if a <= frame < b]
    episode, first = containing[0]
    episodes = sorted(set(numbers.episode[bad].tolist()))
    message = (
        f"{what}: {name!r} is {values[frame]} at step {frame - first} of episode {episode}; "
        f"{int(bad.sum())} such numbers in {len(episodes)} episodes: "
        f"{finite_remedy(root, episodes, len(numbers.episode_ranges))}"
    )
    return Finding("finite", "error", f"episode {episode}", message)


@register("checks", "action_limits")
@check("actions outside of the limits that the spec gives")
def action_limits(examined: Examined) -> Iterator[Finding]:
    """Every action lies within the limits of the spec: policies cannot produce others."""
    numbers = examined.numbers
    dataset = examined.dataset
    if numbers is None or dataset is None:
        return
    if numbers.actions.shape[1] != dataset.spec.action_dim:  # another check says so
        return
    for dim, name in enumerate(dataset.spec.action_names):
        low = dataset.spec.action_low[dim]
        high = dataset.spec.action_high[dim]
        values = numbers.actions[:, dim]
        outside = beyond(values, np.asarray(low), np.asarray(high))
        if outside.any():
            frame = int(outside.argmax())
            message = (
                f"action {name!r} is {values[frame]:g} in episode {numbers.episode[frame]}, the "
                f"spec says {low:g} to {high:g}; {int(outside.sum())} of {len(values)} are "
                "outside: `vla data convert` widens the limits"
            )
            yield Finding("action_limits", "error", f"episode {numbers.episode[frame]}", message)


@register("checks", "binary_actions")
@check("binary actions between their two values")
def binary_actions(examined: Examined) -> Iterator[Finding]:
    """What the spec calls binary is at one end of its range."""
    numbers = examined.numbers
    dataset = examined.dataset
    if numbers is None or dataset is None:
        return
    spec = dataset.spec
    if numbers.actions.shape[1] != spec.action_dim:  # another check says so
        return
    between_NA = numbers.actions != spec.to_ends(numbers.actions)
    for name, (low, high) in spec.binary_ends.items():
        between = between_NA[:, spec.action_names.index(name)]
        if between.any():
            frame = int(between.argmax())
            value = numbers.actions[frame, spec.action_names.index(name)]
            message = (
                f"action {name!r} is {value:g} in episode {numbers.episode[frame]}, the spec says "
                f"{low:g} or {high:g}; {int(between.sum())} of {len(between)} are neither: "
                f"`vla data convert SRC DST binary_actions={name}` moves them to the nearer one"
            )
            yield Finding("binary_actions", "error", f"episode {numbers.episode[frame]}", message)


@register("checks", "constant_actions")
@check("dimensions of the action that never move")
def constant_actions(examined: Examined) -> Iterator[Finding]:
    """Every dimension of the action is used."""
    numbers = examined.numbers
    if numbers is None or len(numbers.actions) < _CONSTANT:
        return
    constant = (numbers.actions == numbers.actions[0]).all(0)  # bool (A,)
    if constant.all():
        message = (
            f"all {len(numbers.actions)} actions are the same: there is nothing to learn; were "
            "the right columns read as the action?"
        )
        yield Finding("constant_actions", "warning", "actions", message)
    elif constant.any():
        names = ", ".join(numbers.action_names[dim] for dim in np.flatnonzero(constant))
        moving = ",".join(numbers.action_names[dim] for dim in np.flatnonzero(~constant))
        message = (
            f"never move: {names}; a policy learns nothing of them: if they are of no use, leave "
            f"them out by the key action=[{moving}]"
        )
        yield Finding("constant_actions", "note", "actions", message)


@register("checks", "duplicates")
@check("episodes with the very same states and actions")
def duplicates(examined: Examined) -> Iterator[Finding]:
    """No episode is in the dataset twice: one could be trained on and the other held out."""
    numbers = examined.numbers
    if numbers is None:
        return
    # by a hash, since the episodes themselves would be held twice
    same: dict[bytes, list[int]] = defaultdict(list)
    for episode, a, b in numbers.episode_ranges:
        content = np.concatenate([numbers.state[a:b], numbers.actions[a:b]], axis=1)
        same[hashlib.sha256(content.tobytes()).digest()].append(episode)
    groups = [episodes for episodes in same.values() if len(episodes) > 1]
    for episodes in groups[:_LISTED]:
        listed = ", ".join(map(str, episodes[:5]))
        if len(episodes) > 5:
            listed += ", ..."
        others = f" ({len(groups)} such groups in all)" if len(groups) > 1 else ""
        message = (
            f"episodes {listed} are the same step by step{others}; keep one of them, or held-out "
            "data leaks"
        )
        yield Finding("duplicates", "warning", f"episode {episodes[1]}", message)


@register("checks", "control_rate")
@check("whether timestamps advance at the rate that the dataset says", formats=LEROBOT)
def control_rate(examined: Examined) -> Iterator[Finding]:
    """Timestamps advance at the rate that info.json says."""
    parts = examined.lerobot
    if parts is None or parts.info is None:
        return
    if not {"timestamp", "episode_index"} <= parts.frames.keys():
        return
    times = parts.frames["timestamp"][:, 0]
    episode = parts.frames["episode_index"][:, 0]
    steps = np.diff(times)[episode[1:] == episode[:-1]]
    steps = steps[np.isfinite(steps) & (steps > 0)]
    # the median, since single timestamps are often late or missing
    if len(steps) and abs(float(np.median(steps)) * parts.info.fps - 1) > 0.01:
        second, unit = unit_of(float(np.median(steps)), float(times[0]))
        hz = 1 / (float(np.median(steps)) * second)
        message = (
            f"{parts.root}: info.json says {parts.info.fps:g} Hz, half of the timestamps advance "
            f"by {np.median(steps):.4g} {unit or 's'} or less ({hz:.4g} Hz); "
        )
        if abs(hz / parts.info.fps - 1) <= 0.01:
            message += f"they are in {unit} and not in seconds, and nothing reads them"
        else:
            message += f"give the rate (`control_hz={hz:.4g}`) if info.json is wrong"
        yield Finding("control_rate", "warning", "timestamp", message)
