"""One line for each mistake in a config, with the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from vla.common.names import did_you_mean
from vla.config.base import Config
from vla.config.choice import Choice, configs_of


def _models_of(annotation: Any, metadata: Iterable[Any] = ()) -> list[type[Config]]:
    """The config classes that a field's annotation admits."""
    found: list[type[Config]] = []
    for mark in metadata:
        if isinstance(mark, Choice):
            found += configs_of(mark.kind).values()
    if isinstance(annotation, type) and issubclass(annotation, Config):
        found.append(annotation)
    elif get_origin(annotation) is not None:
        args = get_args(annotation)
        extra = args[1:] if get_origin(annotation) is Annotated else ()
        for arg in args[:1] if extra else args:
            found += _models_of(arg, extra)
    return found


def problem_line(cls: type[Config], values: Any, error: Any) -> str:
    """One line for one of pydantic's errors on `values`, which `cls` refused."""
    key = [str(part) for part in error["loc"]]
    dotted = ".".join(key) or "config"
    kind = error["type"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(cls, values, error["loc"][:-1])
        return (
            f"{dotted}: unknown key{did_you_mean(key[-1], known)}; known here: {', '.join(known)}"
        )
    if kind == "missing":
        return f"{dotted}: is required and was not given"
    if kind == "literal_error":
        given = error["input"]
        # pydantic writes the alternatives as a sentence: 'auto', 'no' or 'bf16'
        expected = str(context["expected"]).replace(" or ", ", ").split(",")
        names = [name.strip().strip("'") for name in expected]
        hint = did_you_mean(str(given), names)
        return f"{dotted}: no {given!r}{hint}; there are: {', '.join(names)}"
    if kind == "unknown_choice":
        return f"{dotted}.type: {context['text']}"
    if kind == "value_error":
        return f"{dotted}: {context['error']}"
    shown = repr(error["input"])
    if len(shown) >= 80:
        shown = shown[:77] + "..."
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{dotted}: {message}, got {shown}"


def _known_keys(cls: type[Config], values: Any, path: Iterable[Any]) -> list[str]:
    """Keys that are known at `path` inside `values`, sorted."""
    models: list[type[Config]] = [cls]
    for part in path:
        values = values.get(part) if isinstance(values, dict) else None
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        admitted = [
            model for field in fields for model in _models_of(field.annotation, field.metadata)
        ]
        models = admitted or models
        # of a choice, the config that was chosen; of several models without one, all
        chosen = values.get("type") if isinstance(values, dict) else None
        models = [model for model in models if _type_of(model) == chosen] or models
    return sorted({f.alias or name for m in models for name, f in m.model_fields.items()})


def _type_of(model: type[Config]) -> Any:
    """The name that a registered config goes by; an object equal to nothing for other configs."""
    field = model.model_fields.get("type")
    return object() if field is None else field.default
