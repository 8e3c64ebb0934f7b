"""The table of checks: a check is a small function of a dataset that yields findings."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vla.data.validation.examined import Examined

Severity = Literal["error", "warning", "note"]
LEROBOT = ("lerobot", "lerobot_v2")


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name.
        severity: "error" if reading fails or numbers would be wrong, "warning" if the dataset
            contradicts itself or is suspicious, "note" if there is something to know.
        place: file or episode.
        message: what is wrong there, and what can be done.
        fix: name of the repair that `fix=True` applies; empty if there is none.
    """

    check: str
    severity: Severity
    place: str
    message: str
    fix: str = ""


Run = Callable[["Examined"], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """A registered check.

    Attributes:
        name: of the check.
        looks_at: in words.
        formats: names of the formats that it is for; all if it is None.
        deep: whether it decodes images.
        run: yields what it finds.
    """

    name: str
    looks_at: str
    formats: tuple[str, ...] | None
    deep: bool
    run: Run


_CHECKS: dict[str, Check] = {}


def check(
    name: str, looks_at: str, *, formats: tuple[str, ...] | None = None, deep: bool = False
) -> Callable[[Run], Run]:
    """Registers a check; they run in the order of files and lines."""

    def add(run: Run) -> Run:
        _CHECKS[name] = Check(name, looks_at, formats, deep, run)
        return run

    return add


def checks() -> Mapping[str, Check]:
    """name -> check, of all files of this folder."""
    package = importlib.import_module("vla.data.validation.checks")
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        importlib.import_module(f"vla.data.validation.checks.{module.name}")
    return dict(_CHECKS)
