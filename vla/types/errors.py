"""The error of specs and of what does not fit them."""

from __future__ import annotations

from vla.common.errors import UserError


class SpecError(UserError):
    """A spec contradicts itself, or something does not fit the spec it is used with."""
