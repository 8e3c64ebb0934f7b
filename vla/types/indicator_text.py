"""The advantage indicator as text: a line of its own behind the instruction.

See `vla.models.indicator` for what policies make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Indicator = Literal["positive", "negative"]
"""Whether an action is better than usual; no indicator asks for what the data does on average."""
INDICATORS: tuple[Indicator, ...] = ("negative", "positive")
"""In the order of the rows of `IndicatorEmbedding`."""
# a newline: instructions are one line, so no text of a dataset is mistaken for an indicator
_SEPARATOR = "\nAdvantage: "


def with_indicator(instructions: Sequence[str], indicator: Indicator) -> list[str]:
    """The instructions, each with the indicator behind it; one that has one already changes it."""
    return [f"{without_indicator(text)}{_SEPARATOR}{indicator}" for text in instructions]


def without_indicator(instruction: str) -> str:
    """The instruction alone."""
    return instruction.partition(_SEPARATOR)[0]


def indicator_of(instruction: str) -> Indicator | None:
    """The indicator behind an instruction; None if there is none."""
    found = instruction.partition(_SEPARATOR)[2]
    for indicator in INDICATORS:
        if found == indicator:
            return indicator
    return None


def indicator_row(instruction: str) -> int:
    """The row of an instruction's indicator in `INDICATORS`; -1 if there is none."""
    indicator = indicator_of(instruction)
    return -1 if indicator is None else INDICATORS.index(indicator)


__all__ = [
    "INDICATORS",
    "Indicator",
    "indicator_of",
    "indicator_row",
    "with_indicator",
    "without_indicator",
]
