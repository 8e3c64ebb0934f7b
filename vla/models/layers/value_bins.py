"""A value as a distribution over bins, learned by cross-entropy.

M bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_SPREAD = 0.75  # of the Gaussian around a target, in bin widths; Farebrother et al., section 3.1


@dataclass(frozen=True)
class ValueBins:
    """M bins of equal width between two values, and the histogram of a Gaussian around a target.

    A target outside of the range counts as its edge. The Gaussian makes neighbouring bins share
    what is learned, and the loss keeps its size whatever the size of the rewards.

    Source: Farebrother et al., 2024, "Stop regressing: training value functions via classification
    for scalable deep RL", eq. 4 and 5 (HL-Gauss; Imani and White, 2018).

    Attributes:
        count: M, at least 2.
        low, high: the range of values.
    """

    count: int
    low: float
    high: float

    @property
    def width(self) -> float:
        """Of a bin."""
        return (self.high - self.low) / self.count

    def centres(self, like: Tensor) -> Float[Tensor, " M"]:
        """The value of each bin, where and as precise as `like`."""
        edges = torch.linspace(self.low, self.high, self.count + 1).to(like)
        return (edges[1:] + edges[:-1]) / 2

    def expectation(self, logits: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape"]:
        """The mean of the distribution."""
        return logits.softmax(-1) @ self.centres(logits)

    def histogram(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape M"]:
        """The share of each bin in a Gaussian around each value, cut off at the range's edges."""
        edges = torch.linspace(self.low, self.high, self.count + 1).to(values)
        inside = values.clamp(self.low, self.high)
        scaled = (edges - inside.unsqueeze(-1)) / (math.sqrt(2) * _SPREAD * self.width)
        below = torch.erf(scaled)
        shares = below[..., 1:] - below[..., :-1]
        return shares / shares.sum(-1, keepdim=True)

    def cross_entropy(
        self, logits: Float[Tensor, "*shape M"], targets: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Of the targets' histograms (no gradient) under the distributions, nats."""
        shares = self.histogram(targets.detach())
        return -(shares * logits.log_softmax(-1)).sum(-1)


__all__ = ["ValueBins"]
