"""The errors of specs, of what does not fit them, and of actions that are none."""

from __future__ import annotations

from vla.common.errors import UserError


class SpecError(UserError):
    """A spec contradicts itself, or something does not fit the spec it is used with."""


class ActionError(UserError):
    """A policy gave actions of a wrong shape, or NaN or infinity where an action should be."""
