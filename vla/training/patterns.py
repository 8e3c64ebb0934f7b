"""Patterns over names, as configs write them: `*` stands for anything, dots too."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from vla.config import ConfigError

V = TypeVar("V")


def matching(patterns: Iterable[str], names: Sequence[str], *, key: str) -> set[str]:
    """The names that any pattern matches. Raises ConfigError naming `key` where a pattern matches nothing."""
    found: dict[str, list[str]] = {
        p: [name for name in names if fnmatchcase(name, p)] for p in patterns
    }
    if problems := [_unmatched(key, pattern, names) for pattern, hits in found.items() if not hits]:
        raise ConfigError(problems)
    return {name for hits in found.values() for name in hits}


def values_by_name(
    values: Mapping[str, V], names: Sequence[str], *, key: str | None
) -> dict[str, V]:
    """The value of each name that a pattern matches: a name that is the pattern itself first, then the longest pattern
    (of equally long ones the first in the alphabet); names that none matches are left out.

    Raises ConfigError naming `key` where a pattern matches nothing; with key None that is allowed.
    """
    unmatched = (
        [] if key is None else [p for p in values if not any(_fits(name, p) for name in names)]
    )
    if unmatched:
        raise ConfigError([_unmatched(str(key), pattern, names) for pattern in unmatched])
    order = sorted(values, key=lambda pattern: (-len(pattern), pattern))
    chosen = {
        name: next((p for p in [name, *order] if p in values and _fits(name, p)), None)
        for name in names
    }
    return {name: values[pattern] for name, pattern in chosen.items() if pattern is not None}


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _unmatched(key: str, pattern: str, names: Sequence[str]) -> str:
    parts = [name.split(".") for name in names]
    groups = {".".join(part[:length]) for part in parts for length in range(1, len(part))}
    near = difflib.get_close_matches(
        pattern.rstrip(".*"), sorted(groups) + list(names), n=3, cutoff=0.3
    )
    shown = [f"{name}.*" if name in groups else name for name in near] or list(names[:3])
    return (
        f"{key}: {pattern!r} matches nothing; there are for example {', '.join(map(repr, shown))}"
    )


__all__ = ["matching", "values_by_name"]
