"""Histograms as small inline SVGs.

Their colours come from the page's style sheet, so they follow its light and dark modes.
"""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from vla.common.html import render
from vla.common.printing.number_text import number

BINS = 30
HEIGHT = 26


def histogram(values: np.ndarray, label: str, *, bins: int = BINS) -> Markup:
    """How often which value occurs, from the least (left) to the greatest (right).

    Empty if no value is finite.

    Args:
        values: numbers; those that are not finite are left out.
        label: what is counted, for those who do not see the drawing.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return Markup("")
    low, high = float(values.min()), float(values.max())
    counts = _counts(values.astype(np.float64), low, high, bins)
    heights = np.rint(HEIGHT * counts / counts.max())
    # what occurs at all is seen: a bar is at least one unit high
    heights = np.where(counts > 0, np.maximum(1, heights), 0)
    bars = []
    for i, height in enumerate(heights.astype(int).tolist()):
        if height > 0:
            # 3 units wide, with a gap of 1
            bars.append(f"M{4 * i} {HEIGHT}v-{height}h3v{height}z")
    return render(
        "data/view/histogram.html.j2",
        path="".join(bars),
        width=4 * bins - 1,
        height=HEIGHT,
        label=f"Histogram of {label}, {number(low)} to {number(high)}",
    )


def _counts(values: np.ndarray, low: float, high: float, bins: int) -> np.ndarray:
    if low == high:
        counts = np.zeros(bins, dtype=np.int64)
        counts[bins // 2] = len(values)
        return counts
    scaled = (values - low) / (high - low)
    # the greatest value belongs to the last bin, not behind it
    numbers = (scaled * bins).astype(np.int64)
    return np.bincount(np.minimum(numbers, bins - 1), minlength=bins)
