"""Numbers as pages and tables print them: true minus signs, narrow spaces before units."""

from __future__ import annotations

from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"

# these names are filters of all templates, too (`vla.common.html`)
__all__ = ["counted", "fixed", "interval", "number", "p_value", "percent", "signed", "sort_value"]


def percent(rate: float, digits: int = 0) -> str:
    """A rate in [0, 1] in per cent."""
    return f"{100 * rate:.{digits}f}{NARROW_SPACE}%"


def interval(bounds: Sequence[float]) -> str:
    """Two rates in whole per cent, without the unit: 41–93."""
    low, high = bounds
    return f"{100 * low:.0f}\N{EN DASH}{100 * high:.0f}"  # a hyphen would read as a minus


def fixed(value: float, digits: int = 1) -> str:
    """With this number of decimals."""
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 0) -> str:
    """With this number of decimals and its sign, which a rounded zero has not."""
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def number(value: float, digits: int = 4) -> str:
    """A few significant digits, no trailing zeros."""
    text = f"{value:.{digits}g}"
    # "-0" is what rounding makes of tiny negative numbers
    return (text if float(text) else "0").replace("-", MINUS)


def p_value(p: float) -> str:
    """Two figures; below one in ten thousand only that."""
    if p < 1e-4:
        return f"<{NARROW_SPACE}0.0001"
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def counted(count: int, noun: str) -> str:
    """`1 episode`, `2 episodes`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def sort_value(value: float | str) -> str:
    """What the pages' scripts sort a cell by: more digits than the cell shows."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)
