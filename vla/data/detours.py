"""Which steps of a demonstration its demonstrator spent on something else, where the data say so.

N: steps of the chosen episodes side by side.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vla.common.foreign.json_files import parse_json
from vla.data.episode import Scalar, read_info
from vla.data.errors import DataError
from vla.data.loading.windows import Windows

DETOURS = "detours"
"""Key of an episode's info: JSON, [first step, step after the last] of each detour."""


def detour_steps(info: Mapping[str, Scalar], steps: int) -> np.ndarray:
    """Which steps of an episode were detours, bool (steps,).

    Args:
        info: of the episode; without the key none were.
        steps: the episode's number of steps.

    Raises DataError if the value of the key is damaged.
    """
    marked = np.zeros(steps, dtype=bool)
    text = str(info.get(DETOURS) or "[]")
    try:
        for first, stop in parse_json(text, DETOURS):
            marked[first:stop] = True
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the episodes table: info.{DETOURS} is {text[:40]!r}, expected pairs of steps; "
            "restore meta/episodes"
        ) from error
    return marked


def detours_of(windows: Windows) -> np.ndarray | None:
    """Which windows' current step was a detour, bool (N,); None if no episode says so."""
    infos = windows.dataset.episodes["info"].iloc[windows.episodes]
    parsed = [read_info(info) for info in infos]
    if not any(DETOURS in info for info in parsed):
        return None
    lengths = windows.lengths.tolist()
    marked = [detour_steps(info, steps) for info, steps in zip(parsed, lengths, strict=True)]
    return np.concatenate(marked)


__all__ = ["DETOURS", "detour_steps", "detours_of"]
