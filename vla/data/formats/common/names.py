"""The order of names that end in numbers."""

from __future__ import annotations

import re


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts `demo_10` after `demo_9`."""
    parts = re.split(r"([0-9]+)", name)
    return [
        (
            part.isascii() and part.isdigit(),
            int(part) if part.isascii() and part.isdigit() else 0,
            part,
        )
        for part in parts
    ]
