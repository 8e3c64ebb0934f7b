"""Numbers that many configs hold, with the bounds that whatever computes with them has."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST_COUNT = 10**12
"""Steps of a run: more than any ends."""
MOST_BATCH = 1_000_000
"""Windows, frames or episodes at a time."""
MOST_WEIGHT = 1e9
"""Of one thing relative to others: sums and products of such weights are far from overflowing."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed: generators of NumPy take 32 bits."""
Count = Annotated[int, Field(ge=1, le=MOST_COUNT)]
"""Of steps."""
BatchSize = Annotated[int, Field(ge=1, le=MOST_BATCH)]
"""How many are computed with at once."""
Weight = Annotated[float, Field(gt=0, le=MOST_WEIGHT)]
"""How much one thing counts relative to others."""

__all__ = ["MOST_BATCH", "MOST_COUNT", "MOST_WEIGHT", "BatchSize", "Count", "Seed", "Weight"]
