"""Options that other options leave without effect: they are refused, so that nobody takes them for granted."""

from __future__ import annotations

from collections.abc import Iterable

from vla.config import Config


def refuse_unused(config: Config, names: Iterable[str], why: str) -> None:
    """For validators of configs. Raises ValueError where one of these fields has another value than its default; a config that
    was saved with all of its defaults is then read back.

    Args:
        names: of the fields; those of a nested config with a dot between.
        why: what makes them idle, and the remedy.
    """
    for name in names:
        owner, _, field = name.rpartition(".")
        holder = getattr(config, owner) if owner else config
        value = getattr(holder, field)
        if value != type(holder).model_fields[field].get_default(call_default_factory=True):
            raise ValueError(f"{name}: {value!r} would do nothing: {why}")


__all__ = ["refuse_unused"]
