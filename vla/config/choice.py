"""A field that names one of the registered configs of a kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from vla.common import registry
from vla.config.base import Config


class Choice:
    """Marks a field as a choice among the registered configs of a kind.

    In Python it is written `Annotated[Any, Choice("policies")]`, in YAML `type: rt1` beside the
    fields of the choice.

    Args:
        kind: of the registry.
        unlisted: names that the JSON schema leaves out, though they may be chosen: of configs that
            hold this very choice, and whose schema would have no end.
    """

    def __init__(self, kind: str, *, unlisted: Sequence[str] = ()) -> None:
        self.kind = kind
        self.unlisted = tuple(unlisted)

    def _validate(self, value: Any) -> Config:
        # looked up now, not when the field is declared: what a notebook registers later may be
        # chosen too
        if isinstance(value, Config) and registry.is_registered(self.kind, type(value)):
            return value
        if not isinstance(value, dict) or "type" not in value:
            raise ValueError("needs a `type`; there are: " + ", ".join(registry.names(self.kind)))
        try:
            chosen = registry.lookup(self.kind, str(value["type"]))
        except KeyError:
            text = f"no {value['type']!r}{registry.unknown_name(self.kind, str(value['type']))}"
            raise PydanticCustomError("unknown_choice", "{text}", {"text": text}) from None
        name = registry.current_name(self.kind, str(value["type"]))
        config: Config = chosen.model_validate({**value, "type": name})
        return config  # its mistakes are reported under this field's key

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        options = {
            name: config.__pydantic_core_schema__
            for name, config in configs_of(self.kind).items()
            if name not in self.unlisted
        }
        return handler(core_schema.tagged_union_schema(options, discriminator="type"))


def configs_of(kind: str) -> dict[str, type[Config]]:
    """name -> config class of everything registered under `kind`. Imports all of their files."""
    return {name: c for name, c in registry.registered(kind).items() if issubclass(c, Config)}
