"""Which steps of a demonstration its demonstrator spent on something else, where the data say so.

N: steps of the chosen episodes side by side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from vla.data.episode import Scalar
from vla.data.loading.windows import Windows

DETOURS = "detours"
"""Key of an episode's info: JSON, [first step, step after the last] of each detour."""


def detour_steps(info: Mapping[str, Scalar], steps: int) -> np.ndarray:
    """Which steps of an episode were detours, bool (steps,).

    Args:
        info: of the episode; without the key none were.
        steps: the episode's number of steps.
    """
    marked = np.zeros(steps, dtype=bool)
    for first, stop in json.loads(str(info.get(DETOURS) or "[]")):
        marked[first:stop] = True
    return marked


def detours_of(windows: Windows) -> np.ndarray | None:
    """Which windows' current step was a detour, bool (N,); None if no episode says so."""
    infos = windows.dataset.episodes["info"].iloc[windows.episodes]
    parsed = [json.loads(info) for info in infos]
    if not any(DETOURS in info for info in parsed):
        return None
    lengths = windows.lengths.tolist()
    marked = [detour_steps(info, steps) for info, steps in zip(parsed, lengths, strict=True)]
    return np.concatenate(marked)


__all__ = ["DETOURS", "detour_steps", "detours_of"]
