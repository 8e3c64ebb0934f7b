"""Noise on the actions of a policy that tries what it would not do.

B robots, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from vla.types import Spec

Held = Float[np.ndarray, " A"] | None
"""The drawn action that an episode holds, None while it follows its policy."""


@dataclass(frozen=True)
class Exploration:
    """What is drawn beside a policy's own samples.

    Attributes:
        epsilon: share of numbers that are drawn uniformly from their range in place of the
            policy's, each for itself; of tokens of one dimension each (`bins`), share of tokens.
        persistence: above 0 whole actions are drawn, and each is held for 1 / (1 - persistence)
            decisions on average; `epsilon` is still the share of what is drawn (Dabney, Ostrovski
            and Barreto, 2021, "Temporally-extended epsilon-greedy exploration").
        noise: standard deviation of Gaussian noise, in units of half the range; what leaves the
            range is moved to its edge.
    """

    epsilon: float = 0.0
    persistence: float = 0.0
    noise: float = 0.0

    def applied(
        self, chunks: Float[np.ndarray, "B K A"], held: Sequence[Held], spec: Spec
    ) -> tuple[Float[np.ndarray, "B K A"], Sequence[Held]]:
        """The chunks that are executed, in robot units, and what each episode holds after them.

        Draws from torch's generator.
        """
        low_A = np.asarray(spec.action_low, np.float32)
        high_A = np.asarray(spec.action_high, np.float32)
        if self.noise:
            noise = torch.randn(chunks.shape).numpy() * (high_A - low_A) / 2
            # between two ends there is nothing to try; `epsilon` tries the other one
            noise = np.where(spec.is_binary, 0.0, noise)
            chunks = np.clip(chunks + self.noise * noise, low_A, high_A)
        if self.epsilon and self.persistence:
            held = [self._hold(action, low_A, high_A) for action in held]
            followed = [
                chunk if action is None else np.broadcast_to(action, chunk.shape)
                for chunk, action in zip(chunks, held, strict=True)
            ]
            chunks = np.stack(followed)
        elif self.epsilon:
            uniform = low_A + torch.rand(chunks.shape).numpy() * (high_A - low_A)
            replaced = torch.rand(chunks.shape).numpy() < self.epsilon
            chunks = np.where(replaced, uniform, chunks)
        # of a binary dimension that is drawn, both ends are equally likely
        return spec.to_ends(chunks.astype(np.float32)), held

    def _hold(self, action: Held, low: np.ndarray, high: np.ndarray) -> Held:
        """What an episode holds at its next decision."""
        goes_on, starts = torch.rand(2).tolist()
        uniform_A = low + torch.rand(len(low)).numpy() * (high - low)
        if action is not None and goes_on < self.persistence:
            return action
        return uniform_A if starts < self._start() else None

    def _start(self) -> float:
        """With which probability an action that is held begins, so that their share is epsilon."""
        length = 1 / (1 - self.persistence)
        return self.epsilon / (length * (1 - self.epsilon) + self.epsilon)


__all__ = ["Exploration", "Held"]
