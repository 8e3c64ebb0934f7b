"""The order of names that end in numbers."""

from __future__ import annotations

import re


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts `demo_10` after `demo_9`."""
    found = []
    for part in re.split(r"([0-9]+)", name):
        # isascii: `isdigit` holds of superscripts too, of which int() makes nothing
        is_number = part.isascii() and part.isdigit()
        found.append((is_number, int(part) if is_number else 0, part))
    return found
