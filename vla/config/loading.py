"""Configs out of YAML files and dotted overrides, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from vla.common.errors import ConfigError
from vla.common.names import did_you_mean
from vla.config.base import Config
from vla.config.problems import problem_line
from vla.config.yaml_text import YamlError, parse_yaml

C = TypeVar("C", bound=Config)
MOST_PROBLEMS = 20
"""Mistakes that are listed; a file of another kind may have thousands."""
SECTIONS = (
    *("captions", "align", "collect", "train", "reward"),
    *("expert", "eval", "fqe", "online", "identify"),
)
"""Commands whose configs may stand side by side in one file."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError if it is missing or no mapping."""
    path = Path(path)
    if path.is_dir():
        raise ConfigError(
            [
                f"{path}: is a folder, expected the YAML file of a config; a dataset is named "
                f"behind it: CONFIG.yaml data.path={path}"
            ]
        )
    if not path.is_file() and "=" in str(path):
        raise ConfigError(
            [
                f"{path}: is an override, expected the YAML file of a config before it: "
                f"CONFIG.yaml {path}"
            ]
        )
    if not path.is_file():
        beside = path.parent.glob("*.yaml") if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, [other.name for other in beside])
        raise ConfigError([f"{path}: no such file{hint}"])
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not valid YAML: {error}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: expected keys and values, found {type(values).__name__}"])
    return values


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `values` with `a.b.c=value` texts set in it; values are read as YAML."""
    # through JSON: a deep copy of plain types, so that the caller's dict is never changed
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
            node[parts[-1]] = parse_yaml(value)
        except YamlError as error:
            raise ConfigError([f"{key}: {value!r} is not a YAML value: {error}"]) from error
    return result


def load_config(
    cls: type[C],
    source: str | Path | dict[str, Any],
    overrides: Iterable[str] = (),
    *,
    section: str | None = None,
) -> C:
    """A validated config from a YAML file or a dict.

    Args:
        cls: what is made, for example `vla.EvalConfig`.
        source: a YAML file, or the values themselves.
        overrides: texts `key=value` that are laid over the values, for example
            `["policy.history=4", "optim.lr=3e-4"]`: the key with dots between its parts and without
            the section's name, the value as YAML. What is absent is made.
        section: a file may hold one config, or one per command under the keys of `SECTIONS`; this
            says which.

    Raises ConfigError with a line for each mistake.
    """
    overrides = list(overrides)
    values = source if isinstance(source, dict) else read_yaml(source)
    if section is not None and _has_sections(values):
        if section not in values:
            place = "config" if isinstance(source, dict) else source
            has = ", ".join(values)
            raise ConfigError([f"{place}: no section {section!r}, it has: {has}"])
        values = values[section]
    # `train.steps=3` beside a section that was chosen: it would make a key `train` inside it
    prefixed = [text for text in overrides if _section_of(text)]
    wrong = [text for text in prefixed if _section_of(text) not in cls.model_fields]
    if wrong:
        raise ConfigError([_leave_out(text, section) for text in wrong])
    return validate(cls, apply_overrides(values, overrides))


def _has_sections(values: dict[str, Any]) -> bool:
    """Whether a file holds one config per command, not a config of its own."""
    if not values or not set(values) <= set(SECTIONS):
        return False
    return all(isinstance(value, dict) for value in values.values())


def _section_of(override: str) -> str:
    """The section that stands before an override's key; empty if none does."""
    first, dot, _ = override.partition("=")[0].strip().partition(".")
    return first if dot and first in SECTIONS else ""


def _leave_out(override: str, section: str | None) -> str:
    prefix = _section_of(override)
    if section not in (None, prefix):
        return (
            f"{override}: the command reads the section `{section}`, not `{prefix}`; "
            "leave this override out"
        )
    rest = override.strip().removeprefix(f"{prefix}.")
    return f"{override}: leave `{prefix}.` out: the section is chosen by the command; write {rest}"


def validate(cls: type[C], values: dict[str, Any]) -> C:
    """`cls.model_validate` with ConfigError in place of pydantic's report."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        problems = [problem_line(cls, values, e) for e in found[:MOST_PROBLEMS]]
        if len(found) > MOST_PROBLEMS:
            problems.append(f"and {len(found) - MOST_PROBLEMS} more mistakes")
        raise ConfigError(problems) from None


def dump_config(config: Config) -> str:
    """YAML text that `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def schema(cls: type[Config]) -> dict[str, Any]:
    """JSON schema for editors."""
    return TypeAdapter(cls).json_schema()
