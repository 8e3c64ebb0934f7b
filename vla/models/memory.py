"""What policies remember of robots of different age: steps aligned at their end, the missing ones on the left.

B robots, S remembered steps, T steps of a window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor


def stack_steps(parts: Sequence[Tensor]) -> Tensor:
    """Tensors (B_i, S_i, ...) of several groups of robots -> (B, S, ...), zeros on the left."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([_pad_steps(part, longest) for part in parts])


def stack_modulation(
    parts: Sequence[Sequence[tuple[Tensor, Tensor]]],
) -> tuple[tuple[Tensor, Tensor], ...]:
    """FiLM's scale and shift (B_i, C) of several groups of robots, layer by layer, as one."""
    joined = []
    for layer in zip(*parts, strict=True):
        scales = [scale for scale, _ in layer]
        shifts = [shift for _, shift in layer]
        joined.append((torch.cat(scales), torch.cat(shifts)))
    return tuple(joined)


def age_mask(ages: Sequence[int], steps: int) -> Bool[Tensor, "B T"] | None:
    """True at the last age + 1 of `steps` steps of each robot; None if that is all of them."""
    if min(ages) >= steps - 1:
        return None  # without a mask attention takes a faster path
    return torch.arange(steps) >= steps - 1 - torch.tensor(ages)[:, None]


def _pad_steps(x: Tensor, steps: int) -> Tensor:
    padding = x.new_zeros(len(x), steps - x.shape[1], *x.shape[2:])
    return torch.cat([padding, x], dim=1)


__all__ = ["age_mask", "stack_modulation", "stack_steps"]
