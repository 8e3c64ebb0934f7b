"""Noise on the actions of a policy that tries what it would not do.

B robots, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from vla.types import Spec


@dataclass(frozen=True)
class Exploration:
    """What is drawn beside a policy's own samples, each number of a chunk for itself.

    Attributes:
        epsilon: probability that a number is drawn uniformly from its range in place of the
            policy's; of tokens of one dimension each (`bins`), that a token is.
        noise: standard deviation of Gaussian noise, in units of half the range; what leaves the
            range is moved to its edge.
    """

    epsilon: float = 0.0
    noise: float = 0.0

    def applied(self, chunks: Float[np.ndarray, "B K A"], spec: Spec) -> Float[np.ndarray, "B K A"]:
        """The chunks that are executed, in robot units; draws from torch's generator."""
        low_A = np.asarray(spec.action_low, np.float32)
        high_A = np.asarray(spec.action_high, np.float32)
        if self.noise:
            noise = torch.randn(chunks.shape).numpy() * (high_A - low_A) / 2
            chunks = np.clip(chunks + self.noise * noise, low_A, high_A)
        if self.epsilon:
            uniform = low_A + torch.rand(chunks.shape).numpy() * (high_A - low_A)
            replaced = torch.rand(chunks.shape).numpy() < self.epsilon
            chunks = np.where(replaced, uniform, chunks)
        return chunks.astype(np.float32)


__all__ = ["Exploration"]
