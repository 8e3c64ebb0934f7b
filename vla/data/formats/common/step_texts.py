"""Instructions of an episode's steps, where some steps have none."""

from __future__ import annotations

from collections.abc import Sequence


def held(texts: Sequence[str]) -> tuple[list[str], int]:
    """The texts without blank ones, and how many were blank.

    A blank one goes on with the text before it, at the start with the first that there is. All stay
    blank if there is none.
    """
    current = next((text for text in texts if text.strip()), "")
    found = []
    blank = 0
    for text in texts:
        if text.strip():
            current = text
        else:
            blank += 1
        found.append(current)
    return found, blank
