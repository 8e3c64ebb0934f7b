"""Small drawings as inline SVG. Their colours come from the page's style, so they follow its light and dark modes."""

from __future__ import annotations

from html import escape

import numpy as np

BINS = 30
HEIGHT = 26


def histogram(values: np.ndarray, label: str, *, bins: int = BINS) -> str:
    """How often which value occurs, from the least (left) to the greatest (right).

    Args:
        values: numbers; those that are not finite are left out.
        label: what is counted, for those who do not see the drawing.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    low, high = float(values.min()), float(values.max())
    if low == high:
        counts = np.zeros(bins, dtype=np.int64)
        counts[bins // 2] = len(values)
    else:
        scaled = (values.astype(np.float64) - low) / (high - low)
        counts = np.bincount(np.minimum((scaled * bins).astype(np.int64), bins - 1), minlength=bins)
    # What occurs at all is seen: a bar is at least one unit high.
    heights = np.where(
        counts > 0, np.maximum(1, np.rint(HEIGHT * counts / counts.max())), 0
    ).astype(int)
    bars = "".join(f"M{4 * i} {HEIGHT}v-{h}h3v{h}z" for i, h in enumerate(heights.tolist()) if h)
    text = f"Histogram of {label}, {number(low)} to {number(high)}"
    return (
        f'<svg class="histogram" viewBox="0 0 {4 * bins - 1} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(text)}"><path d="{bars}"/></svg>'
    )


def number(value: float, digits: int = 4) -> str:
    """For reading: a few significant digits, no trailing zeros, a true minus sign."""
    text = f"{value:.{digits}g}"
    return (text if float(text) else "0").replace("-", "\N{MINUS SIGN}")
