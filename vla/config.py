"""Typed configs from YAML files and dotted overrides, and the registry of what a config can name.

A registered class joins a *kind* ("policies", "objectives", "envs", "tokenizers", "formats") under a
name. Files of the kind's folder are found by scanning it; other packages join through the entry-point
group `vla.plugins`: each entry point is a module that is imported once.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import json
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

CONFIG_VERSION = 1

_FOLDERS = {
    "policies": "vla.models.policies",
    "objectives": "vla.training.objectives",
    "values": "vla.training.offline_rl.values",
    "extractions": "vla.training.offline_rl.extractions",
    "envs": "vla.sim_eval.envs",
    "tokenizers": "vla.tokenizers",
    "heads": "vla.models.heads",
    "formats": "vla.data.formats",
}
_REGISTRY: dict[str, dict[str, type]] = {kind: {} for kind in _FOLDERS}
C = TypeVar("C", bound="Config")
T = TypeVar("T", bound=type)


class UserError(ValueError):
    """What was given is wrong, and the message says how to mend it: the command line prints it without a traceback."""


class ConfigError(UserError):
    """A config is wrong. `problems` holds one line for each mistake: key, what was expected, remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class Config(BaseModel):
    """Base of all configs: unknown keys are errors, values never change, docstrings are the help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


class RootConfig(Config):
    """Base of the configs that a file (or a section of one) holds."""

    version: int = CONFIG_VERSION
    """Version of the config format."""

    @model_validator(mode="before")
    @classmethod
    def _readable_version(cls, values: Any) -> Any:
        found = values.get("version", CONFIG_VERSION) if isinstance(values, dict) else CONFIG_VERSION
        if found != CONFIG_VERSION:
            raise ValueError(
                f"the config has format version {found!r}, this vla reads version {CONFIG_VERSION}: "
                "install the vla that wrote it, or port its keys and set version: 1"
            )
        return values


# --- registry ---------------------------------------------------------------------------------------


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class decorator: `@register("policies", "rt1")`. What is registered can be named in configs by `type: rt1`.

    Args:
        kind: "policies", "objectives", "values", "extractions", "envs", "tokenizers" or "heads", for a `Config` class with
            the field `type: Literal[name] = name` and the method `build` (envs: `make`) of its kind's base; "formats",
            for a `DatasetReader`.
        name: what configs say.

    Raises KeyError where there is no such kind, ValueError where the name is taken. CONTRIBUTING.md tells what the
    classes of each kind must provide.
    """
    if kind not in _FOLDERS:
        raise KeyError(_no_kind(kind))

    def add(cls: T) -> T:
        known = _REGISTRY[kind].get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{kind}: {name!r} is registered by {known.__module__} already")
        _REGISTRY[kind][name] = cls
        return cls

    return add


@functools.cache
def _load_plugins() -> None:
    for entry in importlib.metadata.entry_points(group="vla.plugins"):
        entry.load()


@functools.cache
def _scan(kind: str) -> None:
    folder = importlib.import_module(_FOLDERS[kind])
    for module in pkgutil.iter_modules(folder.__path__):
        if not module.ispkg:
            importlib.import_module(f"{_FOLDERS[kind]}.{module.name}")


def registered(kind: str) -> dict[str, type]:
    """name -> class of everything registered under `kind`, sorted by name."""
    if kind not in _FOLDERS:
        raise KeyError(_no_kind(kind))
    _scan(kind)
    _load_plugins()
    return dict(sorted(_REGISTRY[kind].items()))


def _no_kind(kind: str) -> str:
    return f"no kind {kind!r}{_nearest(kind, _FOLDERS)}; there are: {', '.join(_FOLDERS)}"


def lookup(kind: str, name: str) -> type:
    """The class registered as `name`. Raises KeyError with the nearest name."""
    found = registered(kind)
    if name not in found:
        raise KeyError(f"no {name!r} among {kind}{_nearest(name, found)}; there are: {', '.join(found) or 'none'}")
    return found[name]


class Choice:
    """Marks a field as a choice among the registered configs of a kind: `Annotated[Any, Choice("policies")]`.

    In YAML the choice is `type: rt1` beside its own fields.

    Args:
        kind: of the registry.
        unlisted: names that the JSON schema leaves out, though they may be chosen: of configs that hold this very choice, and
            whose schema would have no end.
    """

    def __init__(self, kind: str, *, unlisted: Sequence[str] = ()) -> None:
        self.kind, self.unlisted = kind, tuple(unlisted)

    def _validate(self, value: Any) -> Config:
        # looked up now, not when the field is declared: what a notebook registers later may be chosen too
        options = _configs(self.kind)
        if isinstance(value, Config) and isinstance(value, tuple(options.values())):
            return value
        if not isinstance(value, dict) or "type" not in value:
            raise ValueError("needs a `type`; there are: " + ", ".join(options))
        name = value["type"]
        if name not in options:
            text = f"no {name!r}{_nearest(name, options)}; there are: {', '.join(options)}"
            raise PydanticCustomError("unknown_choice", "{text}", {"text": text})
        return options[name].model_validate(value)  # its mistakes are reported under this field's key

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        options = {name: c.__pydantic_core_schema__ for name, c in _configs(self.kind).items()}
        options = {name: schema for name, schema in options.items() if name not in self.unlisted}
        return handler(core_schema.tagged_union_schema(options, discriminator="type"))


def _configs(kind: str) -> dict[str, type[Config]]:
    return {name: c for name, c in registered(kind).items() if issubclass(c, Config)}


# --- loading ----------------------------------------------------------------------------------------


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError where it is missing or no mapping."""
    path = Path(path)
    if not path.is_file():
        near = _nearest(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise ConfigError([f"{path}: no such file{near}"])
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: expected keys and values, found {type(values).__name__}"])
    return values


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `values` with `a.b.c=value` texts set in it; values are read as YAML."""
    result: dict[str, Any] = json.loads(json.dumps(values, default=str))
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError([f"{text}: expected key=value, for example optim.lr=3e-4"])
        node = result
        for part in parts[:-1]:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        try:
            node[parts[-1]] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError([f"{key}: {value!r} is not a YAML value"]) from error
    return result


SECTIONS = ("collect", "train", "eval", "fqe")
"""Commands whose configs may stand side by side in one file."""


def load_config(
    cls: type[C], source: str | Path | dict[str, Any], overrides: Iterable[str] = (), *, section: str | None = None
) -> C:
    """A validated config from a YAML file or a dict.

    Args:
        cls: what is made, for example `vla.TrainConfig`.
        source: a YAML file, or the values themselves.
        overrides: texts `key=value` that are laid over the values, for example `["policy.history=4", "optim.lr=3e-4"]`: the
            key with dots between its parts and without the section's name, the value as YAML. What is absent is made.
        section: a file may hold one config, or one per command under the keys of `SECTIONS`; this says which.

    Raises ConfigError with a line for each mistake.
    """
    overrides = list(overrides)
    values = source if isinstance(source, dict) else read_yaml(source)
    if (
        section is not None
        and values
        and set(values) <= set(SECTIONS)
        and all(isinstance(v, dict) for v in values.values())
    ):
        if section not in values:
            has = ", ".join(values)
            raise ConfigError(
                [f"{source if not isinstance(source, dict) else 'config'}: no section {section!r}, it has: {has}"]
            )
        values = values[section]
    if prefixed := [text for text in overrides if _section_of(text) and _section_of(text) not in cls.model_fields]:
        raise ConfigError([_leave_out(text, section) for text in prefixed])
    return validate(cls, apply_overrides(values, overrides))


def _section_of(override: str) -> str:
    """The section that stands before an override's key, where one does."""
    first, dot, _ = override.partition("=")[0].strip().partition(".")
    return first if dot and first in SECTIONS else ""


def _leave_out(override: str, section: str | None) -> str:
    prefix = _section_of(override)
    if section not in (None, prefix):
        return f"{override}: the command reads the section `{section}`, not `{prefix}`; leave this override out"
    rest = override.strip().removeprefix(f"{prefix}.")
    return f"{override}: leave `{prefix}.` out: the section is chosen by the command; write {rest}"


def validate(cls: type[C], values: dict[str, Any]) -> C:
    """`cls.model_validate` with ConfigError in place of pydantic's report."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError([_line(cls, values, e) for e in error.errors()]) from None


def check_config(config: object, cls: type[Config]) -> None:
    """Raises UserError where `config` is no `cls`, for example because it was not loaded yet."""
    if isinstance(config, cls):
        return
    shown = "{...}" if isinstance(config, dict) else repr(str(config)) if isinstance(config, str | Path) else "..."
    raise UserError(
        f"expected {cls.__name__}, got {type(config).__name__}; use load_config({_public_name(cls)}, {shown})"
    )


def _public_name(cls: type) -> str:
    return f"vla.{cls.__name__}" if cls.__name__ in ("CollectConfig", "TrainConfig", "EvalConfig") else cls.__name__


def dump_config(config: Config) -> str:
    """YAML text that `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def schema(cls: type[Config]) -> dict[str, Any]:
    """JSON schema for editors."""
    return TypeAdapter(cls).json_schema()


# --- error lines ------------------------------------------------------------------------------------


def _nearest(name: str, names: Iterable[str]) -> str:
    match = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _models_of(annotation: Any, metadata: Iterable[Any] = ()) -> list[type[Config]]:
    """The config classes that a field's annotation admits."""
    found: list[type[Config]] = []
    for mark in metadata:
        if isinstance(mark, Choice):
            found += _configs(mark.kind).values()
    if isinstance(annotation, type) and issubclass(annotation, Config):
        found.append(annotation)
    elif get_origin(annotation) is not None:
        args = get_args(annotation)
        extra = args[1:] if get_origin(annotation) is Annotated else ()
        for arg in args[:1] if extra else args:
            found += _models_of(arg, extra)
    return found


def _line(cls: type[Config], values: Any, error: Any) -> str:
    """One line for one of pydantic's errors on `values`."""
    models: list[type[Config]] = [cls]
    key = [str(part) for part in error["loc"]]
    inner = error["loc"][:-1] if error["type"] == "extra_forbidden" else error["loc"]
    for part in inner:
        values = values.get(part) if isinstance(values, dict) else None
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        models = [c for f in fields for c in _models_of(f.annotation, f.metadata)] or models
        chosen = values.get("type") if isinstance(values, dict) else None
        models = [m for m in models if "type" in m.model_fields and m.model_fields["type"].default == chosen] or models
    dotted, kind, context = ".".join(key) or "config", error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        names = sorted({f.alias or n for m in models for n, f in m.model_fields.items()})
        return f"{dotted}: unknown key{_nearest(key[-1], names)}; known here: {', '.join(names)}"
    if kind == "missing":
        return f"{dotted}: is required and was not given"
    if kind == "literal_error":
        names = [n.strip().strip("'") for n in str(context["expected"]).replace(" or ", ", ").split(",")]
        return f"{dotted}: no {error['input']!r}{_nearest(str(error['input']), names)}; there are: {', '.join(names)}"
    if kind == "unknown_choice":
        return f"{dotted}.type: {context['text']}"
    if kind == "value_error":
        return f"{dotted}: {context['error']}"
    shown = repr(error["input"])
    return (
        f"{dotted}: {error['msg'][0].lower()}{error['msg'][1:]}, got {shown if len(shown) < 80 else shown[:77] + '...'}"
    )


__all__ = [
    "CONFIG_VERSION",
    "Choice",
    "Config",
    "ConfigError",
    "RootConfig",
    "UserError",
    "apply_overrides",
    "check_config",
    "dump_config",
    "load_config",
    "lookup",
    "read_yaml",
    "register",
    "registered",
    "schema",
    "validate",
]
