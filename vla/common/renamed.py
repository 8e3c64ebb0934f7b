"""Old spellings that still work: the first use of each says in one line what to write now."""

from __future__ import annotations

import warnings

_announced: set[tuple[str, str]] = set()


class RenamedWarning(FutureWarning):
    """Something is called by its former name. The command line prints it as one line."""


def announce_renamed(former: str, name: str) -> None:
    """Warns once per process that `former` is now called `name`."""
    if (former, name) in _announced:
        return
    _announced.add((former, name))
    warnings.warn(
        f"{former} is now called {name}; the old name still works", RenamedWarning, stacklevel=3
    )
