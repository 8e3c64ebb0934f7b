"""One registry of everything that a config or a command can name, by kind and name.

A registered class (or function) joins a *kind* such as "policies" under a name. Files of the kind's
folder are found by reading their source, so listing names imports nothing and `lookup` imports one
file. Other packages join through the entry-point group `vla.plugins`: each entry point is a module
that is imported once.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vla.common.names import did_you_mean
from vla.common.plugins import load_plugins
from vla.common.renamed import announce_renamed

KINDS = {
    "policies": "vla.models.policies",
    "heads": "vla.models.heads",
    "rewards": "vla.models.rewards",
    "tokenizers": "vla.tokenizers",
    "objectives": "vla.training.objectives",
    "values": "vla.training.offline_rl.values",
    "extractions": "vla.training.offline_rl.extractions",
    "envs": "vla.sim_eval.envs",
    "gates": "vla.sim_eval.gates",
    "perturbations": "vla.sim_eval.perturbations",
    "formats": "vla.data.formats",
    "checks": "vla.data.validation.checks",
    "doctor_checks": "vla.recipes.doctor.checks",
    "protocols": "vla.serving.protocols",
}
"""kind -> the package whose files are scanned for it."""

T = TypeVar("T")


_registry: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
_former: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}


@dataclass(frozen=True)
class Entry:
    """What the source of a file says of something that it registers.

    Attributes:
        name: what configs say.
        module: that has to be imported for it.
        summary: first paragraph of its docstring, on one line.
        former: older names that still work.
    """

    name: str
    module: str
    summary: str
    former: tuple[str, ...] = ()


def register(kind: str, name: str, *, former: Sequence[str] = ()) -> Callable[[T], T]:
    """Decorator: `@register("policies", "rt1")`. What is registered can be named in configs by
    `type: rt1`.

    Args:
        kind: one of `KINDS`. "formats" holds `DatasetReader` classes, "perturbations"
            `Perturbation` classes, "checks" functions under `@check`, "doctor_checks"
            functions under `@examines`, "protocols" `Conversation` classes; every other kind
            `Config` classes with the field `type: Literal[name] = name` and the method `build`
            (envs: `make`) of its kind's base.
        name: what configs say. In files of the kind's folder a literal, since the files are listed
            without an import.
        former: names that it had before; they still work, and say what to write now.

    Raises KeyError if there is no such kind, ValueError if the name is taken. CONTRIBUTING.md says
    what the classes of each kind must provide.
    """
    _check_kind(kind)

    def add(registered_object: T) -> T:
        module, _ = _identity(registered_object)
        known = _registry[kind].get(name)
        # a name of this package is taken before its file is imported
        own = _scan(kind).get(name)
        if own is not None and own.module != _identity(registered_object)[0]:
            raise ValueError(f"{kind}: {name!r} is registered by {own.module} already")
        if known is not None and _identity(known) != _identity(registered_object):
            raise ValueError(f"{kind}: {name!r} is registered by {_identity(known)[0]} already")
        if not module.startswith(f"{KINDS[kind]}."):
            for taken in (name, *former):
                _refuse_own_name(kind, taken, module)
        _registry[kind][name] = registered_object
        for old in former:
            _former[kind][old] = name
        return registered_object

    return add


def names(kind: str) -> list[str]:
    """Names registered under `kind`, sorted. Imports plug-ins, but no file of this package."""
    return [entry.name for entry in entries(kind)]


def entries(kind: str) -> list[Entry]:
    """What can be named under `kind`, sorted by name, with its summary. Imports plug-ins, but no
    file of this package."""
    _check_kind(kind)
    _load_plugins()
    found = dict(_scan(kind))
    for name, registered_object in _registry[kind].items():
        if name not in found:  # of a plug-in, or registered in a notebook
            source: Any = inspect.unwrap(registered_object)
            found[name] = Entry(name, source.__module__, _summary(source.__doc__))
    return [found[name] for name in sorted(found)]


def names_in_file_order(kind: str) -> list[str]:
    """Names registered under `kind` in the order of files and lines, those of plug-ins last."""
    _check_kind(kind)
    _load_plugins()
    own = list(_scan(kind))
    return own + [name for name in _registry[kind] if name not in own]


def registered(kind: str) -> dict[str, Any]:
    """name -> class (or function) of everything registered under `kind`, sorted by name. Imports
    all of their files."""
    return {entry.name: lookup(kind, entry.name) for entry in entries(kind)}


def lookup(kind: str, name: str) -> Any:
    """The class (or function) registered as `name`; imports its file alone. Raises KeyError with
    the nearest name."""
    _check_kind(kind)
    name = current_name(kind, name)
    if name not in _registry[kind] and name in _scan(kind):
        importlib.import_module(_scan(kind)[name].module)
    if name not in _registry[kind]:
        _load_plugins()
    if name not in _registry[kind]:
        raise KeyError(f"no {name!r} among {kind}{unknown_name(kind, name)}")
    return _registry[kind][name]


def current_name(kind: str, name: str) -> str:
    """Today's name of what is called `name`; warns once if that is a former name."""
    _check_kind(kind)
    now = _former[kind].get(name)
    if now is None:
        former = {old: entry.name for entry in _scan(kind).values() for old in entry.former}
        now = former.get(name)
    if now is None:
        return name
    announce_renamed(f"type: {name}", f"type: {now}")
    return now


def name_of(kind: str, registered_object: Any) -> str | None:
    """The name under which a class was registered; None if it was not."""
    return next(
        (name for name, known in _registry[kind].items() if known is registered_object), None
    )


def is_registered(kind: str, cls: type) -> bool:
    """Whether `cls`, or a class that it derives from, is registered under `kind`."""
    known = tuple(value for value in _registry[kind].values() if isinstance(value, type))
    return issubclass(cls, known)


def unknown_name(kind: str, name: str) -> str:
    """What an error says behind a name that does not exist: the nearest one, and all there are."""
    there_are = names(kind)
    text = f"{did_you_mean(name, there_are)}; there are: {', '.join(there_are) or 'none'}"
    # it may be theirs
    for package, why in _load_plugins().items():
        text += f"; the plug-in {package} was left out ({why})"
    return text


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise KeyError(
            f"no kind {kind!r}{did_you_mean(kind, KINDS)}; there are: {', '.join(KINDS)}"
        )


def _refuse_own_name(kind: str, name: str, module: str) -> None:
    """Raises ValueError if a file of the kind's folder, imported or not, registers `name`."""
    own = _scan(kind).get(name)
    if own is not None and own.module != module:
        raise ValueError(f"{kind}: {name!r} is registered by {own.module} already")


def _identity(registered_object: Any) -> tuple[str, str]:
    # by name, not by `is`: a notebook that runs a cell twice makes the class a second time
    source = inspect.unwrap(registered_object)
    return source.__module__, source.__qualname__


@functools.cache
def _load_plugins() -> dict[str, str]:
    """package -> why its plug-in was left out."""
    return load_plugins([_registry, _former])


@functools.cache
def _scan(kind: str) -> dict[str, Entry]:
    """name -> what the files of the kind's folder register at their top level, in the order of
    files and lines."""
    root = Path(__file__).parents[1]  # vla/
    folder = root.joinpath(*KINDS[kind].split(".")[1:])
    found: dict[str, Entry] = {}
    for path in sorted(folder.rglob("*.py")):
        inside = ".".join(path.relative_to(folder).with_suffix("").parts)
        source = path.read_text(encoding="utf-8")
        if f'"{kind}"' not in source:  # most files, and parsing is slow
            continue
        tree = ast.parse(source)
        for entry in _entries_of(kind, f"{KINDS[kind]}.{inside}", tree):
            if entry.name in found:
                raise ValueError(
                    f"{kind}: {entry.name!r} is registered by {found[entry.name].module} already"
                )
            found[entry.name] = entry
    return found


def _entries_of(kind: str, module: str, tree: ast.Module) -> list[Entry]:
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if not (isinstance(decorator, ast.Call) and _called(decorator) == "register"):
                continue
            registered_kind, name = (ast.literal_eval(argument) for argument in decorator.args)
            if registered_kind == kind:
                options = {
                    option.arg: ast.literal_eval(option.value) for option in decorator.keywords
                }
                summary = _summary(ast.get_docstring(node))
                found.append(Entry(name, module, summary, tuple(options.get("former", ()))))
    return found


def _called(call: ast.Call) -> str:
    """The last name of what is called: `register` of both `register(...)` and
    `registry.register(...)`."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _summary(docstring: str | None) -> str:
    first_paragraph = (docstring or "").strip().split("\n\n")[0]
    return " ".join(first_paragraph.split())
