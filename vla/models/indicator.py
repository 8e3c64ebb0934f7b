"""The advantage indicator: a policy is asked for actions that are better than usual.

It stands behind the instruction, on a line of its own (pi*0.6; Physical Intelligence, 2025,
arXiv:2511.14759, section IV-B). A policy that reads words, such as `vlm`, reads it there. One that
reads the vector of a sentence has a learned vector for each indicator, which is added to it.

B windows or robots, E numbers of an instruction's vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vla.config import ConfigError
from vla.tokenizers.language import LanguageEncoder
from vla.types.indicator_text import (
    INDICATORS,
    Indicator,
    indicator_of,
    indicator_row,
    with_indicator,
    without_indicator,
)


class IndicatorEmbedding(nn.Embedding):
    """A learned vector for each indicator, of the size of an instruction's vector."""

    def __init__(self, dim: int) -> None:
        super().__init__(len(INDICATORS), dim)
        # zeros: a policy that is given the ability acts as before until it learns the difference
        nn.init.zeros_(self.weight)

    def of(self, instructions: Sequence[str]) -> Float[Tensor, "B E"]:
        """The vector of each instruction's indicator; zeros where there is none."""
        rows = [indicator_row(text) for text in instructions]
        return self.of_rows(torch.tensor(rows, device=self.weight.device))

    def of_rows(self, index_B: Int64[Tensor, " B"]) -> Float[Tensor, "B E"]:
        """The vector of each row; zeros for -1."""
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
