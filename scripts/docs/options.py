"""Tables of the options of what is registered, from the configs themselves."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from vla.common.registry import lookup
from vla.config.docstrings import field_docstrings


def options_table(kind: str, name: str) -> str:
    """One row for each option of a registered config: its name, its default, what it does."""
    config: type[BaseModel] = lookup(kind, name)
    described = field_docstrings(config)
    rows = ["| option | default | |", "| --- | --- | --- |"]
    for option, field in config.model_fields.items():
        if option == "type":
            continue
        text = re.sub(r"\s+", " ", described.get(option, "")).replace("|", "\\|")
        rows.append(f"| `{option}` | {_default(field)} | {text} |")
    if len(rows) == 2:
        return "There are no options."
    return "\n".join(rows)


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        changed = value.model_dump(exclude_defaults=True)
        return f"`{changed}`" if changed else "its own defaults"
    if isinstance(value, dict):
        inner = ", ".join(f"{key}: {item}" for key, item in value.items())
        return f"`{{{inner}}}`"
    shown = (
        {None: "null", True: "true", False: "false"}.get(value, value) if _simple(value) else value
    )
    return f"`{shown}`"


def _simple(value: Any) -> bool:
    # 0 and 1 are equal to False and True, and must stay numbers
    return value is None or isinstance(value, bool)
