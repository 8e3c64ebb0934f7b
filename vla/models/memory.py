"""What policies remember of robots of different age: steps aligned at their end, the missing ones on the left.

B robots, S remembered steps, n tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor


def stack_steps(parts: Sequence[Tensor]) -> Tensor:
    """Tensors (B_i, S_i, ...) of several groups of robots -> (B, S, ...), zeros on the left."""
    longest = max(x.shape[1] for x in parts)
    return torch.cat([_pad_steps(x, longest) for x in parts])


def age_mask(ages: Sequence[int], steps: int) -> Bool[Tensor, "B T"] | None:
    """True at the last age + 1 of `steps` steps of each robot; None where that is all of them."""
    if min(ages) >= steps - 1:
        return None
    return torch.arange(steps) >= steps - 1 - torch.tensor(ages)[:, None]


def _pad_steps(x: Tensor, steps: int) -> Tensor:
    return torch.cat([x.new_zeros(len(x), steps - x.shape[1], *x.shape[2:]), x], dim=1)


__all__ = ["age_mask", "stack_steps"]
