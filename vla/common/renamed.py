"""Old spellings that still work: the first use of each says in one line what to write now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

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


def former_attributes(module: str, former: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose classes or functions have new names.

    Args:
        module: its `__name__`.
        former: former name -> name today, both in that module.
    """

    def look_up(name: str) -> Any:
        if name not in former:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        announce_renamed(f"{module}.{name}", former[name])
        return getattr(sys.modules[module], former[name])

    return look_up


def accept_former_members(cls: type, former: Mapping[str, str]) -> None:
    """For `__init_subclass__`: a subclass may define, and its users may read, members by former
    names.

    Args:
        cls: the new subclass.
        former: former name of a member -> its name today. The base class defines both.
    """
    for old, name in former.items():
        members = vars(cls)
        if old in members and name not in members:
            announce_renamed(f"{cls.__name__}.{old}", name)
            setattr(cls, name, members[old])
        elif name in members:
            # both names are one object in every class, so that `super()` finds the same member by
            # either
            setattr(cls, old, members[name])
