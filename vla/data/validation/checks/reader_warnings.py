"""What the reader warned of; after `pictures.py`, since warnings grow while images are read."""

from __future__ import annotations

from collections.abc import Iterator

from vla.data.validation.examined import Examined
from vla.data.validation.registry import Finding, check
from vla.data.validation.repair_names import CORRECT_TOTALS, DROP_CAMERAS

_KNOWN = (
    ("declares the camera", "cameras", DROP_CAMERAS),
    ("total_frames is", "totals", CORRECT_TOTALS),
    ("total_episodes is", "totals", CORRECT_TOTALS),
    (": split ", "splits", CORRECT_TOTALS),
    ("no split", "splits", CORRECT_TOTALS),
    ("timestamp", "timestamps", ""),
    ("steps do not take about", "timestamps", ""),
    ("indices have holes", "indices", ""),
    ("numbers have holes", "indices", ""),
    ("are left out", "indices", ""),
    ("have no instruction", "instructions", ""),
    ("its control rate", "control_rate", ""),
)
"""A piece of a reader's warning -> the check that it belongs to, the repair that mends it."""


@check(
    "reader",
    "what the reader warns of; its warnings go under the names of the checks that they belong to",
)
def reader(examined: Examined) -> Iterator[Finding]:
    for warning in () if examined.dataset is None else examined.dataset.warnings:
        name, fix = next(
            ((name, fix) for piece, name, fix in _KNOWN if piece in warning), ("reader", "")
        )
        if "its checksum differs" in warning:
            continue  # told by its own check
        yield Finding(name, "warning", examined.root.name, warning, fix)
