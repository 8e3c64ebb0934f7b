"""Sentences about what a reader leaves out, with the key that reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LISTED = 8  # names that a warning mentions


def unread_numbers(
    unread: Mapping[str, tuple[int, ...]],
    states: Sequence[str],
    actions: Sequence[str],
) -> list[str]:
    """At most one sentence.

    Args:
        unread: key -> shape of an array that is not read, in one episode.
        states: keys that are read as the state.
        actions: keys that are read as the action.
    """
    if not unread:
        return []
    listed = listing([f"{key} {shape}" for key, shape in unread.items()])
    # alternative actions, such as joint velocities, are no state
    candidates = [key for key in unread if "action" not in key]
    if not candidates:
        key = f"action=[{','.join([*actions, next(iter(unread))])}]"
        return [f"numbers that are not read: {listed}; the key `action` reads them: {key}"]
    key = f"state=[{','.join([*states, candidates[0]])}]"
    if not states:
        return [f"no state is read; the key `state` can name: {listed}; for example {key}"]
    return [f"numbers that are not read: {listed}; the key `state` reads them, for example {key}"]


def listing(names: Sequence[str]) -> str:
    """The first few, separated by commas."""
    more = len(names) - _LISTED
    rest = [f"and {more} more"] if more > 0 else []
    return ", ".join([*names[:_LISTED], *rest])
