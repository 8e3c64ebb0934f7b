"""What policies remember of robots of different age: steps that are aligned at their end.

B robots, S remembered steps, T steps of a window, n tokens of a segment, D width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from vla.models.layers.vision_encoder import Modulation

Content = Mapping[str, Tensor]
"""Segment -> tokens (B, S, n, D)."""


def select_rows(content: Content, rows: Sequence[int]) -> dict[str, Tensor]:
    """The tokens of some robots, in the order given."""
    index = list(rows)
    return {name: tokens[index] for name, tokens in content.items()}


def append_steps(past: Content, new: Content) -> dict[str, Tensor]:
    """The tokens of the past steps, then those of the new ones."""
    joined = {}
    for name, tokens in new.items():
        joined[name] = torch.cat([past[name], tokens], dim=1)
    return joined


def last_steps(content: Content, steps: int) -> dict[str, Tensor]:
    """The tokens of the last `steps` steps."""
    # not [-steps:], which is everything for 0
    return {name: tokens[:, tokens.shape[1] - steps :] for name, tokens in content.items()}


def select_modulation(
    modulation: Modulation,
    rows: Sequence[int] | Tensor,
) -> tuple[tuple[Tensor, Tensor], ...]:
    """The modulation of some robots, in the order given."""
    return tuple((scale[rows], shift[rows]) for scale, shift in modulation)


def stack_steps(parts: Sequence[Tensor]) -> Tensor:
    """Tensors (B_i, S_i, ...) of several groups of robots -> (B, S, ...), zeros on the left."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([_pad_steps(part, longest) for part in parts])


def stack_modulation(parts: Sequence[Modulation]) -> tuple[tuple[Tensor, Tensor], ...]:
    """The modulation of several groups of robots as one."""
    joined = []
    for layer in zip(*parts, strict=True):
        scales = [scale for scale, _ in layer]
        shifts = [shift for _, shift in layer]
        joined.append((torch.cat(scales), torch.cat(shifts)))
    return tuple(joined)


def age_mask(ages: Sequence[int], steps: int) -> Bool[Tensor, "B T"] | None:
    """True at the last age + 1 of `steps` steps of each robot; None if that is all of them."""
    if min(ages) >= steps - 1:
        # the usual case: attention without a mask of its own for each robot is faster
        return None
    first_B1 = steps - 1 - torch.tensor(ages)[:, None]
    return torch.arange(steps) >= first_B1


def _pad_steps(tokens: Tensor, steps: int) -> Tensor:
    missing = steps - tokens.shape[1]
    # masked wherever they are read (`age_mask`), so that any number would do
    padding = tokens.new_zeros(len(tokens), missing, *tokens.shape[2:])
    return torch.cat([padding, tokens], dim=1)


__all__ = [
    "age_mask",
    "append_steps",
    "last_steps",
    "select_modulation",
    "select_rows",
    "stack_modulation",
    "stack_steps",
]
