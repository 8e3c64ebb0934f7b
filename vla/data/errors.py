"""The error of this room."""

from __future__ import annotations

from vla.common.errors import DataWarning as DataWarning
from vla.common.errors import UserError


class DataError(UserError):
    """Data is missing, damaged or contradicts itself. The message names the place, the value and
    the remedy."""
