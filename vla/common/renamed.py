"""Old spellings that still work: the first use of each says in one line what to write now."""

from __future__ import annotations

import importlib
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


def former_attributes(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose attributes also go by their former names.

    Args:
        module: its `__name__`.
        names: former name -> name today.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        announce_renamed(f"{module}.{name}", f"{module}.{names[name]}")
        return getattr(importlib.import_module(module), names[name])

    return find
