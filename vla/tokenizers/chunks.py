"""What tokenizers of whole chunks share: all chunks of episodes, and the range of each action
dimension.

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
    """Indices of the actions of each chunk: int64 (N, K), one chunk for every step of the episodes.

    Chunks that run past the end of their episode repeat its last action. With `most`, at most so
    many chunks, evenly spread.
    """
    lengths_E = torch.as_tensor(lengths, dtype=torch.long)
    last_N = lengths_E.cumsum(0).repeat_interleave(lengths_E) - 1
    steps_N = torch.arange(len(last_N))
    if most is not None and len(steps_N) > most:
        # float64: float32 cannot count beyond 2^24 steps
        steps_N = torch.linspace(0, len(last_N) - 1, most, dtype=torch.float64).round().long()
    rows_NK = steps_N[:, None] + torch.arange(chunk)
    return torch.minimum(rows_NK, last_N[steps_N, None])


@dataclass(frozen=True)
class ActionRange:
    """The fitted range of each dimension, and values in units of it.

    Attributes:
        low, high: float32 (A,), robot units. Equal if a dimension never moved.
    """

    low: Float[np.ndarray, " A"]
    high: Float[np.ndarray, " A"]

    @classmethod
    def fit(
        cls,
        actions_NA: Tensor,
        quantiles: tuple[float, float],
        names: Sequence[str],
        binary_ends: Mapping[str, tuple[float, float]],
    ) -> Self:
        """From two quantiles of the data; a dimension that is the same in all of them is kept as
        this constant.

        Args:
            actions_NA: robot units.
            quantiles: the lower and the upper one.
            names: of the dimensions.
            binary_ends: the ranges of binary dimensions. Quantiles would lose a flag that is set in
                the last step of each episode.

        Raises:
            TokenizerError: the quantiles of a dimension are equal though it moves.
        """
        values_NA = actions_NA.numpy().astype(np.float64)
        low, high = np.quantile(values_NA, quantiles, axis=0).astype(np.float32)
        for name, ends in binary_ends.items():
            low[names.index(name)], high[names.index(name)] = ends
        least = values_NA.min(0)
        greatest = values_NA.max(0)
        for dim, name in enumerate(names):
            if low[dim] == high[dim] and least[dim] != greatest[dim]:
                raise TokenizerError(
                    f"action {name!r}: its quantiles {quantiles[0]:g} and {quantiles[1]:g} are "
                    f"both {low[dim]:g}, though it moves between {least[dim]:g} and "
                    f"{greatest[dim]:g}: most of its motion would be lost; use wider quantiles, "
                    "such as [0, 1]"
                )
        return cls(low, high)

    @property
    def half(self) -> Float[np.ndarray, " A"]:
        """Half the width, float64."""
        return (self.high.astype(np.float64) - self.low) / 2

    @property
    def moving(self) -> np.ndarray:
        """Dimensions that are not constant, bool (A,)."""
        return self.high > self.low

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """low, high (float32), middle and half (float64), all (A,)."""
        low = torch.from_numpy(self.low).to(device)
        high = torch.from_numpy(self.high).to(device)
        middle = (low.double() + high.double()) / 2
        half = (high.double() - low.double()) / 2
        return low, high, middle, half

    def to_unit(self, actions: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """Robot units -> float64 in [-1, 1], clipped; 0 for constants."""
        low, high, middle, half = self.tensors(actions.device)
        # a constant is 0 in units of the range, not 0 / 0
        scale = torch.where(half > 0, half, torch.ones_like(half))
        clipped = torch.minimum(torch.maximum(actions, low), high)
        return (clipped.double() - middle) / scale

    def to_robot(self, unit: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """Unit values -> float32 robot units, clipped to the range."""
        low, high, middle, half = self.tensors(unit.device)
        robot = (middle + half * unit.double()).float()
        return torch.minimum(torch.maximum(robot, low), high)

    def bound(self, unit_error: float) -> Float[Tensor, " A"]:
        """The error in robot units that corresponds to `unit_error`; at most the whole range, as
        values are clipped."""
        bound_A = torch.from_numpy(self.half * min(2.0, unit_error)).float()
        largest_A = np.maximum(np.abs(self.low), np.abs(self.high))
        spacing_A = torch.from_numpy(np.spacing(largest_A))
        # values are rounded to float32 at the end; a constant is kept exactly
        moving_A = torch.from_numpy(self.moving)
        return bound_A + torch.where(moving_A, 2 * spacing_A, torch.zeros_like(bound_A))

    def state(self) -> dict[str, Any]:
        """JSON types from which `from_state` builds an equal range."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], action_dim: int) -> Self:
        """Raises TokenizerError, KeyError, TypeError or ValueError if `state` is not what `state()`
        returned."""
        low = np.array(state["low"], dtype=np.float32)
        high = np.array(state["high"], dtype=np.float32)
        fits = low.shape == high.shape == (action_dim,)
        finite = np.isfinite(low).all() and np.isfinite(high).all()
        if not fits or not finite or not (low <= high).all():
            raise TokenizerError(
                f"expected {action_dim} finite low <= high, got low {low} high {high}; fit it again"
            )
        return cls(low, high)


__all__ = ["ActionRange", "Quantiles", "chunk_rows"]
