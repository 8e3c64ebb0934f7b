"""Real-time chunking: what a robot does while its policy computes, as pure functions.

An observation is taken, the robot executes d more actions of the chunk before, and only then the
new chunk is there. Of a chunk, s actions are executed per request (`replan_every`): the first d are
those of the chunk before, d more are executed during the next request.

K actions per chunk, A action dimensions, n actions that are left of the chunk before, S draws,
B robots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Method = Literal["guidance", "prefix", "bid", "blend", "ensemble", "switch", "hold"]
"""How the chunk before and the new one become one:

- guidance: the flow of the new chunk is pulled towards the one before;
- prefix: the actions under way are given to the policy, which predicts those behind them;
- bid: of several draws, the one nearest to the chunk before (bidirectional decoding, backward
  coherence alone: arXiv:2408.17355);
- blend: where both speak of a step, 0.3 of the one before and 0.7 of the new one;
- ensemble: the average of all chunks that speak of a step (ACT: arXiv:2304.13705);
- switch: the new chunk, whatever was before;
- hold: the robot stands still until the new chunk is there.
"""
CONTINUING: tuple[Method, ...] = ("guidance", "prefix", "bid")
"""Methods that need the policy's distribution; the others need its chunks alone."""
Schedule = Literal["exp", "linear", "ones", "zeros"]
ActionKind = Literal["delta", "absolute"]
"""delta: changes or velocities, 0 stands still. absolute: targets, the last one stands still."""
OLD_SHARE = 0.3
"""Of the chunk before, in a blend."""
ENSEMBLE_DECAY = 0.01
DRAWS = 16


@dataclass(frozen=True, kw_only=True)
class RealtimeSettings:
    """How chunks follow each other when they arrive late.

    Attributes:
        delay: d, control steps from an observation to the arrival of its chunk.
        method: how the chunks become one.
        schedule: how weights of the chunk before fall off, of guidance and bid.
        action_kind: what standing still is, of hold.
        draws: of bid.
    """

    delay: int
    method: Method = "switch"
    schedule: Schedule = "exp"
    action_kind: ActionKind = "delta"
    draws: int = DRAWS


def delay_steps(latency_s: float, control_hz: float) -> int:
    """d: control steps that begin before an answer of this latency is there."""
    # a little off: 0.1 s at 30 Hz are 3 steps, and not 4 by rounding
    return math.ceil(latency_s * control_hz - 1e-9)


def prefix_weights(
    chunk: int,
    delay: int,
    every: int,
    schedule: Schedule = "exp",
) -> Float[np.ndarray, " K"]:
    """How much the actions of the chunk before count (arXiv:2506.07339, eq. 5).

    1 for the d actions under way, 0 behind the end of that chunk, K - s actions from now. Between
    them c (e^c - 1) / (e - 1) (exp) or c (linear), where c falls linearly; 1 (ones); or 0 (zeros).
    A delay beyond that end is lowered to it.
    """
    end = max(chunk - every, 0)
    delay = min(delay, end)
    i = np.arange(chunk)
    falling = (end - i) / (end - delay + 1)
    between = {
        "exp": falling * np.expm1(falling) / math.expm1(1),
        "linear": falling,
        "ones": np.ones(chunk),
        "zeros": np.zeros(chunk),
    }[schedule]
    weights = np.where(i < delay, 1.0, between)
    return np.where(i < end, weights, 0.0).astype(np.float32)


def padded(rest_nA: np.ndarray, chunk: int) -> Float[np.ndarray, "K A"]:
    """What is left of a chunk, 0 behind its end."""
    return np.pad(rest_nA, ((0, chunk - len(rest_nA)), (0, 0)))


def nearest(
    chunks: Float[Tensor, "S B K A"],
    previous: Float[Tensor, "B K A"],
    weights: Float[Tensor, " K"],
) -> Float[Tensor, "B K A"]:
    """Of S draws for each robot, that of the least weighted distance to the chunk before.

    The distance is the sum over actions of the weight times the Euclidean distance, so all
    dimensions should have one unit.
    """
    distance_SBK = (chunks - previous).norm(dim=-1)
    best_B = (distance_SBK * weights).sum(-1).argmin(0)
    return chunks[best_B, torch.arange(chunks.shape[1], device=chunks.device)]


def blended(
    rest_nA: np.ndarray, chunk_KA: np.ndarray, old_share: float = OLD_SHARE
) -> Float[np.ndarray, "K A"]:
    """The new chunk, and where the one before speaks too, a mean of both."""
    mixed_KA = chunk_KA.copy()
    n = min(len(rest_nA), len(chunk_KA))
    mixed_KA[:n] = old_share * rest_nA[:n] + (1 - old_share) * chunk_KA[:n]
    return mixed_KA


def averaged(
    chunks: Sequence[np.ndarray], decay: float = ENSEMBLE_DECAY
) -> Float[np.ndarray, "K A"]:
    """The mean of all chunks that speak of a step; the i-th oldest of these weighs exp(-decay i).

    Args:
        chunks: (n, A) each, from now on, the oldest first; the last one has K actions.
    """
    K = len(chunks[-1])
    means = []
    for k in range(K):
        spoken_NA = np.stack([chunk[k] for chunk in chunks if k < len(chunk)])
        weights_N = np.exp(-decay * np.arange(len(spoken_NA)))
        means.append(weights_N @ spoken_NA / weights_N.sum())
    return np.asarray(means, dtype=np.float32)


__all__ = [
    "CONTINUING",
    "DRAWS",
    "ActionKind",
    "Method",
    "RealtimeSettings",
    "Schedule",
    "averaged",
    "blended",
    "delay_steps",
    "nearest",
    "padded",
    "prefix_weights",
]
