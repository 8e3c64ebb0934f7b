"""What every config is: pydantic models that refuse unknown keys and never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from vla.common.errors import UserError
from vla.common.renamed import announce_renamed
from vla.config.docstrings import field_docstrings

CONFIG_VERSION = 1


class Config(BaseModel):
    """Base of all configs: unknown keys are errors, values never change, docstrings are the
    help."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
    )
    former_keys: ClassVar[dict[str, str]] = {}
    """Former name of a key -> its name today. Old configs and checkpoints keep working; see
    `announce_renamed`."""

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        # pydantic reads true as 1: `steps: true` would train for one step
        for key, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(key)
            if field is not None and _holds_truth(value) and not _takes_truth(field.annotation):
                raise ValueError(f"{key}: is {str(value).lower()}; no truth value may stand here")
        return values

    @model_validator(mode="before")
    @classmethod
    def _accept_former_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not cls.former_keys.keys() & values.keys():
            return values
        renamed = dict(values)
        for former, name in cls.former_keys.items():
            if former not in renamed:
                continue
            if name in renamed:
                # both spellings in one config: neither may win in silence
                raise ValueError(
                    f"{former} is now called {name}, and both are set; set {name} alone"
                )
            announce_renamed(former, name)
            renamed[name] = renamed.pop(former)
        return renamed

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described = handler(core_schema)
        properties = handler.resolve_ref_schema(described).get("properties", {})
        for name, text in field_docstrings(cls).items():
            if name in cls.model_fields:
                properties[cls.model_fields[name].alias or name].setdefault("description", text)
        return described


def _holds_truth(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(isinstance(item, bool) for item in value)
    return isinstance(value, bool)


def _takes_truth(annotation: Any) -> bool:
    """Whether a truth value may stand where an annotation does, by itself or within."""
    if annotation in (Any, object, bool) or isinstance(annotation, bool):
        return True
    return any(_takes_truth(inner) for inner in get_args(annotation))


class RootConfig(Config):
    """Base of the configs that a file (or a section of one) holds."""

    version: int = CONFIG_VERSION
    """Version of the config format."""

    @model_validator(mode="before")
    @classmethod
    def _readable_version(cls, values: Any) -> Any:
        found = (
            values.get("version", CONFIG_VERSION) if isinstance(values, dict) else CONFIG_VERSION
        )
        if found != CONFIG_VERSION:
            raise ValueError(
                f"the config has format version {found!r}, this vla reads version "
                f"{CONFIG_VERSION}: "
                "install the vla that wrote it, or port its keys and set version: 1"
            )
        return values


def check_config(config: object, cls: type[Config]) -> None:
    """Raises UserError if `config` is not a `cls`, for example because it was not loaded yet."""
    if isinstance(config, cls):
        return
    if isinstance(config, dict):
        shown = "{...}"
    elif isinstance(config, str | Path):
        shown = repr(str(config))
    else:
        shown = "..."
    raise UserError(
        f"expected {cls.__name__}, got {type(config).__name__}; "
        f"use load_config({_public_name(cls)}, {shown})"
    )


def _public_name(cls: type) -> str:
    """How a user writes the class: `vla.EvalConfig`, or the bare name."""
    import vla  # here, since vla/__init__.py is above all rooms

    return f"vla.{cls.__name__}" if cls.__name__ in vla.__all__ else cls.__name__
