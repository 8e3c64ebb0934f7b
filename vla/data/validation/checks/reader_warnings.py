"""What the reader warned of; after `pictures.py`, since warnings grow while images are read."""

from __future__ import annotations

from collections.abc import Iterator

from vla.common.registry import register
from vla.data.formats.lerobot_parts.missing import MISSING, POINTERS
from vla.data.validation.check import Finding, check
from vla.data.validation.examined import Examined
from vla.data.validation.repair_names import CORRECT_TOTALS, DROP_CAMERAS

_KNOWN = (
    ("declares the camera", "cameras", DROP_CAMERAS),
    ("total_frames is", "totals", CORRECT_TOTALS),
    ("total_episodes is", "totals", CORRECT_TOTALS),
    (": split ", "splits", CORRECT_TOTALS),
    ("no split", "splits", CORRECT_TOTALS),
    ("timestamp", "timestamps", ""),
    ("steps do not take about", "timestamps", ""),
    ("its time rises", "timestamps", ""),
    ("indices have holes", "indices", ""),
    ("numbers have holes", "indices", ""),
    ("folders without", "indices", ""),
    ("have no instruction", "instructions", ""),
    ("its control rate", "control_rate", ""),
)
"""A piece of a reader's warning, the check that it belongs to, and its repair. The first that is
found counts."""


@register("checks", "reader")
@check(
    ("what the reader warns of; its warnings go under the names of the checks that they belong to"),
)
def reader(examined: Examined) -> Iterator[Finding]:
    """The reader had nothing to warn of."""
    for warning in () if examined.dataset is None else examined.dataset.warnings:
        # the checks `checksums` and `files` report these
        if any(piece in warning for piece in ("its checksum differs", MISSING, POINTERS)):
            continue
        known = [(name, fix) for piece, name, fix in _KNOWN if piece in warning]
        name, fix = known[0] if known else ("reader", "")
        yield Finding(name, "warning", examined.root.name, warning, fix)
