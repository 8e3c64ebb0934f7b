"""Many chunks of the same steps, drawn from what the policy's one pass has computed.

B windows, T steps, S draws, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vla.types import ActionDistribution


def sample_many(
    actions: ActionDistribution,
    count: int,
    generator: torch.Generator | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "S B T K A"]:
    """`count` chunks of each step.

    A distribution that draws token by token may define `sample_many` with these arguments: its
    draws then go through its network side by side, in one pass per token for all of them.
    """
    draws: Any = getattr(actions, "sample_many", None)
    if draws is not None:
        drawn: Tensor = draws(count, generator, temperature=temperature)
        return drawn
    chunks = [actions.sample(generator, temperature=temperature) for _ in range(count)]
    return torch.stack(chunks)


__all__ = ["sample_many"]
