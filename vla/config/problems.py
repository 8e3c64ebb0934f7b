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
    """One line for one of pydantic's errors on `values`."""
    models: list[type[Config]] = [cls]
    key = [str(part) for part in error["loc"]]
    inner = error["loc"][:-1] if error["type"] == "extra_forbidden" else error["loc"]
    for part in inner:
        values = values.get(part) if isinstance(values, dict) else None
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        models = [c for f in fields for c in _models_of(f.annotation, f.metadata)] or models
        chosen = values.get("type") if isinstance(values, dict) else None
        models = [
            m
            for m in models
            if "type" in m.model_fields and m.model_fields["type"].default == chosen
        ] or models
    dotted, kind, context = ".".join(key) or "config", error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        names = sorted({f.alias or n for m in models for n, f in m.model_fields.items()})
        return (
            f"{dotted}: unknown key{did_you_mean(key[-1], names)}; known here: {', '.join(names)}"
        )
    if kind == "missing":
        return f"{dotted}: is required and was not given"
    if kind == "literal_error":
        names = [
            n.strip().strip("'") for n in str(context["expected"]).replace(" or ", ", ").split(",")
        ]
        return f"{dotted}: no {error['input']!r}{did_you_mean(str(error['input']), names)}; there are: {', '.join(names)}"
    if kind == "unknown_choice":
        return f"{dotted}.type: {context['text']}"
    if kind == "value_error":
        return f"{dotted}: {context['error']}"
    shown = repr(error["input"])
    return f"{dotted}: {error['msg'][0].lower()}{error['msg'][1:]}, got {shown if len(shown) < 80 else shown[:77] + '...'}"
