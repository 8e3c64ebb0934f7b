"""Patterns over names, as configs write them: `*` stands for anything, dots too."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from vla.config import ConfigError

V = TypeVar("V")


def matching(patterns: Iterable[str], names: Sequence[str], *, key: str) -> set[str]:
    """The names that any pattern matches.

    Raises ConfigError naming `key` if a pattern matches nothing.
    """
    matched: set[str] = set()
    problems = []
    for pattern in patterns:
        # case counts, on every system: fnmatch itself ignores it on Windows
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            problems.append(_unmatched(key, pattern, names))
        matched.update(found)
    if problems:
        raise ConfigError(problems)
    return matched


def values_by_name(
    values: Mapping[str, V],
    names: Sequence[str],
    *,
    key: str | None,
) -> dict[str, V]:
    """The value of each name that a pattern matches; names that none matches are left out.

    A name that is the pattern itself counts first, then the longest pattern (of equally long ones
    the first in the alphabet).

    Raises ConfigError naming `key` if a pattern matches nothing; with key None that is allowed.
    """
    if key is not None:
        problems = [
            _unmatched(key, pattern, names)
            for pattern in values
            if not any(_fits(name, pattern) for name in names)
        ]
        if problems:
            raise ConfigError(problems)
    # the longest is the most specific; by the alphabet, so that the file's order does not matter
    by_length = sorted(values, key=lambda pattern: (-len(pattern), pattern))
    found = {}
    for name in names:
        for pattern in [name, *by_length]:
            if pattern in values and _fits(name, pattern):
                found[name] = values[pattern]
                break
    return found


def _fits(name: str, pattern: str) -> bool:
    # equal, since an instruction may hold characters of patterns: a question mark, brackets
    return name == pattern or fnmatchcase(name, pattern)


def _unmatched(key: str, pattern: str, names: Sequence[str]) -> str:
    """The problem of a pattern that matches nothing, with the nearest names and groups of names."""
    groups: set[str] = set()
    for name in names:
        parts = name.split(".")
        groups.update(".".join(parts[:length]) for length in range(1, len(parts)))
    wanted = pattern.rstrip(".*")
    near = difflib.get_close_matches(wanted, [*sorted(groups), *names], n=3, cutoff=0.3)
    shown = [f"{name}.*" if name in groups else name for name in near] or list(names[:3])
    examples = ", ".join(repr(name) for name in shown)
    return f"{key}: {pattern!r} matches nothing; there are for example {examples}"


__all__ = ["matching", "values_by_name"]
