"""What tokenizers of whole chunks share: all chunks of episodes, and the range of each action dimension.

N actions, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from jaxtyping import Float
from pydantic import AfterValidator
from torch import Tensor

from vla.tokenizers.base import TokenizerError


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= value[0] < value[1] <= 1:
        raise ValueError(f"needs 0 <= lower < upper <= 1, got {list(value)}")
    return value


# a lower and an upper quantile
Quantiles = Annotated[tuple[float, float], AfterValidator(_ordered)]


def chunk_rows(lengths: Sequence[int], chunk: int, *, most: int | None = None) -> Tensor:
    """Which actions make up each chunk: int64 (N, K), one chunk for every step of episodes side by side.

    Chunks that run past the end of their episode repeat its last action. With `most`, at most so many of them, evenly
    spread over all.
    """
    lengths_E = torch.as_tensor(lengths, dtype=torch.long)
    last_N = lengths_E.cumsum(0).repeat_interleave(lengths_E) - 1
    steps_N = torch.arange(len(last_N))
    if most is not None and len(steps_N) > most:
        steps_N = torch.linspace(0, len(last_N) - 1, most, dtype=torch.float64).round().long()
    return torch.minimum(steps_N[:, None] + torch.arange(chunk), last_N[steps_N, None])


@dataclass(frozen=True)
class ActionRange:
    """The fitted range of each dimension, and values in units of it.

    Attributes:
        low, high: float32 (A,), robot units. Equal where a dimension never moved.
    """

    low: Float[np.ndarray, " A"]
    high: Float[np.ndarray, " A"]

    @classmethod
    def fit(cls, actions_NA: Tensor, quantiles: tuple[float, float], names: Sequence[str]) -> Self:
        """From two quantiles of the data; a dimension that is the same in all of them is kept as this constant.

        Raises:
            TokenizerError: the quantiles of a dimension are equal though it moves.
        """
        values_NA = actions_NA.numpy().astype(np.float64)
        low, high = np.quantile(values_NA, quantiles, axis=0).astype(np.float32)
        for name, least, greatest, a, b in zip(
            names, values_NA.min(0), values_NA.max(0), low, high, strict=True
        ):
            if a == b and least != greatest:
                raise TokenizerError(
                    f"action {name!r}: its quantiles {quantiles[0]:g} and {quantiles[1]:g} are both {a:g}, though it "
                    f"moves between {least:g} and {greatest:g}: most of its motion would be lost; "
                    "use wider quantiles, such as [0, 1]"
                )
        return cls(low, high)

    @property
    def half(self) -> Float[np.ndarray, " A"]:
        """Half the width, float64."""
        return (self.high.astype(np.float64) - self.low) / 2

    @property
    def moving(self) -> np.ndarray:
        """Dimensions that are no constants, bool (A,)."""
        return self.high > self.low

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """low, high (float32), middle and half (float64), all (A,)."""
        low, high = torch.from_numpy(self.low).to(device), torch.from_numpy(self.high).to(device)
        return low, high, (low.double() + high.double()) / 2, (high.double() - low.double()) / 2

    def to_unit(self, actions: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """Robot units -> float64 in [-1, 1], clipped; 0 for constants."""
        low, high, middle, half = self.tensors(actions.device)
        scale = torch.where(half > 0, half, torch.ones_like(half))
        return (torch.minimum(torch.maximum(actions, low), high).double() - middle) / scale

    def to_robot(self, unit: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """Unit values -> float32 robot units, clipped to the range."""
        low, high, middle, half = self.tensors(unit.device)
        return torch.minimum(torch.maximum((middle + half * unit.double()).float(), low), high)

    def bound(self, unit_error: float) -> Float[Tensor, " A"]:
        """The error in robot units that `unit_error` makes; never more than the whole range, as values are clipped."""
        bound_A = torch.from_numpy(self.half * min(2.0, unit_error)).float()
        spacing_A = torch.from_numpy(np.spacing(np.maximum(np.abs(self.low), np.abs(self.high))))
        # values are rounded to float32 at the end; a constant is kept exactly
        return bound_A + torch.where(
            torch.from_numpy(self.moving), 2 * spacing_A, torch.zeros_like(bound_A)
        )

    def state(self) -> dict[str, Any]:
        """JSON types from which `from_state` builds an equal range."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], action_dim: int) -> Self:
        """Raises TokenizerError, KeyError, TypeError or ValueError where `state` is not what `state()` gave."""
        low, high = (np.array(state[key], dtype=np.float32) for key in ("low", "high"))
        fits = low.shape == high.shape == (action_dim,)
        if not fits or not (
            np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()
        ):
            raise TokenizerError(
                f"expected {action_dim} finite low <= high, got low {low} high {high}; fit it again"
            )
        return cls(low, high)


__all__ = ["ActionRange", "Quantiles", "chunk_rows"]
