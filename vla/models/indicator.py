"""The advantage indicator: a policy is asked for actions that are better than usual.

It stands behind the instruction, on a line of its own (pi*0.6; Physical Intelligence, 2025,
arXiv:2511.14759, section IV-B). A policy that reads words, such as `vlm`, reads it there. One that
reads the vector of a sentence has a learned vector for each indicator, which is added to it.

B windows or robots, E numbers of an instruction's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vla.config import ConfigError
from vla.tokenizers.language import LanguageEncoder

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


class IndicatorEmbedding(nn.Embedding):
    """A learned vector for each indicator, of the size of an instruction's vector."""

    def __init__(self, dim: int) -> None:
        super().__init__(len(INDICATORS), dim)
        # zeros: a policy that is given the ability acts as before until it learns the difference
        nn.init.zeros_(self.weight)

    def of(self, instructions: Sequence[str]) -> Float[Tensor, "B E"]:
        """The vector of each instruction's indicator; zeros where there is none."""
        rows = []
        for text in instructions:
            indicator = indicator_of(text)
            rows.append(-1 if indicator is None else INDICATORS.index(indicator))
        index_B = torch.tensor(rows, device=self.weight.device)
        has_one_B1 = (index_B >= 0)[:, None]
        return self(index_B.clamp(min=0)) * has_one_B1


def indicator_embedding(language: LanguageEncoder) -> IndicatorEmbedding:
    """The embedding for a policy's text encoder.

    Raises ConfigError if the policy has no instruction's vector to add to.
    """
    if not language.dim:
        raise ConfigError(
            [
                "policy.indicator: true, but the policy reads no instruction whose vector an "
                "indicator could be added to; set policy.language: blank (one task), or minilm"
            ]
        )
    return IndicatorEmbedding(language.dim)


__all__ = [
    "INDICATORS",
    "Indicator",
    "IndicatorEmbedding",
    "indicator_embedding",
    "indicator_of",
    "with_indicator",
    "without_indicator",
]
