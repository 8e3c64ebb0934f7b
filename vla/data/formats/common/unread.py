"""Sentences about what a reader leaves out, with the key that reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LISTED = 8  # names that a warning mentions
COUNTS = ("index", "frame", "frame_index", "step", "step_index", "episode", "episode_index")
"""What numbers rows and says nothing of them."""


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
    # commands, such as those of a mobile base, are no state: it would give away the action
    commands = [key for key in unread if "action" in key.lower() or "command" in key.lower()]
    seen = [key for key in unread if key not in commands]
    remedies = []
    if seen:
        remedies.append(f"state=[{','.join([*states, seen[0]])}]")
    if commands:
        remedies.append(f"action=[{','.join([*actions, commands[0]])}]")
    if not states and seen:
        return [
            f"no state is read; the key `state` can name: {listed}; for example "
            f"{' and '.join(remedies)}"
        ]
    which = "`state` reads them, for example" if seen else "`action` reads them:"
    if seen and commands:
        which = "`state` reads what is seen and the key `action` what is done, for example"
    return [f"numbers that are not read: {listed}; the key {which} {' and '.join(remedies)}"]


def listing(names: Sequence[str]) -> str:
    """The first few, separated by commas."""
    more = len(names) - _LISTED
    rest = [f"and {more} more"] if more > 0 else []
    return ", ".join([*names[:_LISTED], *rest])
