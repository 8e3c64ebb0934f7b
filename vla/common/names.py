"""The nearest name to one that does not exist, and how an error offers it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The one of `names` that is most like `name`; None if none is alike by at least `cutoff` (0 to
    1)."""
    found = difflib.get_close_matches(str(name), list(names), n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(name: str, names: Iterable[str], *, cutoff: float = 0.5) -> str:
    """` (did you mean 'rt1'?)`, to be put behind a wrong name; empty if no name is near."""
    match = nearest(name, names, cutoff=cutoff)
    return "" if match is None else f" (did you mean {match!r}?)"
