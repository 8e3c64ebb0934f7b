"""How states and instruction vectors are scaled, from the data that a policy is fitted to.

N steps of data, S state dimensions, U distinct instructions, E numbers of an instruction's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vla.types import SpecError

LEAST_SPREAD = 1e-6


def checked_states(states: Any, names: Sequence[str]) -> Tensor:
    """The states (N, S) in double precision. Raises SpecError if they are of another shape, or
    hold NaN or infinity."""
    # double: a mean over millions of rows in float32 would lose the small digits
    states_NS = torch.as_tensor(states).double()
    if states_NS.ndim != 2 or states_NS.shape[1] != len(names):
        raise SpecError(f"states: expected (N, {len(names)}), got {tuple(states_NS.shape)}")
    finite_NS = torch.isfinite(states_NS)
    if not finite_NS.all():
        bad = (~finite_NS).any(0).nonzero().flatten()
        shown = ", ".join(names[dim] for dim in bad.tolist())
        raise SpecError(f"states hold NaN or infinity in {shown}")
    return states_NS


def state_scale(states_NS: Float[Tensor, "N S"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (S,) each."""
    std_S = states_NS.std(0, unbiased=False)
    # a dimension that hardly varies tells nothing: its spread would only blow up noise
    varies_S = std_S > LEAST_SPREAD
    return states_NS.mean(0), torch.where(varies_S, std_S, torch.ones_like(std_S))


def language_scale(vectors_UE: Float[Tensor, "U E"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (E,) each; the latter at least 0.3 of its own mean."""
    std_E = vectors_UE.std(0, unbiased=False)
    # what the training texts hardly vary in must not become loud in a text from elsewhere
    least = max(0.3 * float(std_E.mean()), 1e-3)
    return vectors_UE.mean(0), std_E.clamp(min=least)


__all__ = ["checked_states", "language_scale", "state_scale"]
