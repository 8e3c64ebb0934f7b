"""Options that another option leaves without effect: they are refused, not ignored in silence."""

from __future__ import annotations

from collections.abc import Iterable

from vla.config.base import Config


def refuse_ignored_options(
    config: Config,
    names: Iterable[str],
    why: str,
) -> None:
    """For validators of configs. Raises ValueError if one of these fields differs from its default.

    Args:
        config: that is being validated.
        names: of the fields; those of a nested config with a dot between.
        why: what leaves them without effect, and the remedy.
    """
    for name in names:
        owner, _, field = name.rpartition(".")
        holder = getattr(config, owner) if owner else config
        value = getattr(holder, field)
        # by value, not by whether the key was written: a saved config holds all defaults, and must
        # be read back
        default = type(holder).model_fields[field].get_default(call_default_factory=True)
        if value != default:
            raise ValueError(f"{name}: {value!r} would do nothing: {why}")


__all__ = ["refuse_ignored_options"]
