"""The public names of the package: what the API pages list, and what must have a docstring."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FACES = (
    "vla",
    "vla.types",
    "vla.config",
    "vla.data",
    "vla.tokenizers",
    "vla.models",
    "vla.training",
    "vla.export",
    "vla.sim_eval",
    "vla.sim_eval.statistics",
)
"""Modules whose names are public: the package and the faces of its rooms."""


def public_names(face: str) -> list[str]:
    """What a module offers: its `__all__`, or what it imports as itself (`from x import y as y`)."""
    module = importlib.import_module(face)
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    tree = ast.parse(Path(inspect.getfile(module)).read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return [alias.name for node in imports for alias in node.names if alias.asname == alias.name]


def undocumented() -> list[str]:
    """Dotted names of public objects and of their public methods that have no docstring."""
    found: list[str] = []
    seen: set[int] = set()
    for face in FACES:
        for name in public_names(face):
            thing = getattr(importlib.import_module(face), name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)) or id(thing) in seen:
                continue
            seen.add(id(thing))
            if not thing.__doc__:
                found.append(f"{face}.{name}")
            if inspect.isclass(thing):
                found += [f"{face}.{name}.{method}" for method in _undocumented_methods(thing)]
    return found


def _undocumented_methods(cls: type) -> Iterator[str]:
    for name, value in vars(cls).items():
        function = _function_of(value)
        if name.startswith("_") or function is None or not function.__module__.startswith("vla"):
            continue
        # getdoc also finds what the base class says of a method
        if not inspect.getdoc(getattr(cls, name)):
            yield name


def _function_of(value: Any) -> Any:
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    return value if inspect.isfunction(value) else None
