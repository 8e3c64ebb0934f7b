"""Old spellings that still work: the first use of each says in one line what to write now."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

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


def accept_former_methods(cls: type, former: Mapping[str, str]) -> None:
    """Lets a plug-in's class that defines a method by its former name work as if it used today's.

    To be called from `__init_subclass__` of the base class: then it comes before abstract methods
    are counted.

    Args:
        cls: the new subclass.
        former: former name of a method (or class attribute) -> its name today.
    """
    for old, name in former.items():
        if old in vars(cls) and name not in vars(cls):
            announce_renamed(f"{cls.__name__}.{old}", name)
            setattr(cls, name, vars(cls)[old])
