"""Other packages' modules, imported so that one that is broken stands in nobody's way."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from vla.common.errors import Notice

GROUP = "vla.plugins"
Tables = Sequence[Mapping[str, dict[str, Any]]]
"""What modules enter things into: kind -> name -> thing."""


class PluginWarning(Notice):
    """A package's entry point cannot be used; the message names the package and says why."""


def load_plugins(tables: Tables) -> dict[str, str]:
    """Imports the module of each entry point of `GROUP`.

    One that raises is left out with a PluginWarning, together with what it had entered into
    `tables`.

    Returns package -> why it was left out.
    """
    left_out: dict[str, str] = {}
    for entry_point in _entry_points():
        before = _copied(tables)
        try:
            entry_point.load()
        # a module may also end the program in which it is imported
        except (Exception, SystemExit) as error:
            _take_back(tables, before)
            package = _package(entry_point)
            left_out[package] = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"the plug-in {package} is left out: importing {entry_point.value} raised "
                f"{left_out[package]}; mend it, or: pip uninstall {package}",
                PluginWarning,
                stacklevel=2,
            )
    return left_out


def _entry_points() -> list[EntryPoint]:
    found: list[EntryPoint] = []
    seen = set()
    # one by one, not `entry_points()`: that fails for all if one package's list cannot be read
    for distribution in importlib.metadata.distributions():
        try:
            listed = list(distribution.entry_points.select(group=GROUP))
        except Exception as error:
            warnings.warn(
                f"the entry points of {_folder(distribution)} cannot be read: {error}; if it has "
                "plug-ins, they are left out",
                PluginWarning,
                stacklevel=3,
            )
            continue
        for entry_point in listed:
            # a package that lies twice on the path counts where it is found first
            if (_package(entry_point), entry_point.name) not in seen:
                seen.add((_package(entry_point), entry_point.name))
                found.append(entry_point)
    return found


def _folder(distribution: importlib.metadata.Distribution) -> str:
    return str(getattr(distribution, "_path", "a package"))


def _package(entry_point: EntryPoint) -> str:
    """The name under which pip knows the package."""
    distribution = entry_point.dist
    try:
        name = None if distribution is None else distribution.metadata["Name"]
    except Exception:  # the package's metadata are damaged
        name = None
    return name or entry_point.module.partition(".")[0]


def _copied(tables: Tables) -> list[dict[str, dict[str, Any]]]:
    return [{kind: dict(entries) for kind, entries in table.items()} for table in tables]


def _take_back(tables: Tables, before: Sequence[Mapping[str, dict[str, Any]]]) -> None:
    """Removes what was entered since, but for what is of this package: it was imported on the way,
    and is not entered a second time."""
    for table, former in zip(tables, before, strict=True):
        for kind, entries in table.items():
            for name in entries.keys() - former[kind].keys():
                module = getattr(entries[name], "__module__", "")
                if module.partition(".")[0] != "vla":
                    del entries[name]
