"""Flows that end in a chunk which goes on from the one that is being executed.

Pure functions of a velocity. Guidance: Black, Galliker and Levine, 2025, arXiv:2506.07339, of any
flow; prefix: arXiv:2512.05964, of a network that was trained with given first actions.

B windows, T steps, K actions per chunk, A action dimensions; chunks in units of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""A chunk (B, T, K, A) and its time -> its velocity (B, T, K, A)."""


def guidance_factor(time: float, limit: float) -> float:
    """How strongly the estimated error of the chunk pulls at `time`: min(limit, (1 - t) / t /
    r^2).

    r^2 = (1 - t)^2 / (t^2 + (1 - t)^2) is the variance of the actions given what flows at that
    time, if they are of variance 1.
    """
    if time == 0:
        # pure noise says nothing of its chunk, and the factor has no bound
        return limit
    rest = 1 - time
    return min(limit, rest / time * (time**2 + rest**2) / rest**2)


def guided_flow(
    velocity: Velocity,
    x: Float[Tensor, "B T K A"],
    target: Float[Tensor, "B T K A"],
    weights: Float[Tensor, " K"],
    steps: int,
) -> Float[Tensor, "B T K A"]:
    """Where noise `x` flows to in `steps` of Euler's method, pulled towards `target` by weight.

    At each step the chunk at which the flow would end is estimated, and its weighted error goes
    back through the network to `x`, by one vector-Jacobian product.
    """
    weights_K1 = weights[:, None]
    for step in range(steps):
        t = step / steps
        velocity_BTKA, end_BTKA, pull_back = _estimated_end(velocity, x, t)
        error_BTKA = (target - end_BTKA) * weights_K1
        (pull_BTKA,) = pull_back(error_BTKA)
        # A limit of one whole error per step: beyond it a step would overshoot. Both published
        # settings, 5 at 5 steps and 10 at 10, are this one.
        factor = guidance_factor(t, limit=steps)
        x = x + (velocity_BTKA + factor * pull_BTKA) / steps
    return x


def _estimated_end(
    velocity: Velocity, x: Tensor, t: float
) -> tuple[Tensor, Tensor, Callable[[Tensor], tuple[Tensor]]]:
    """Velocity, estimated end of the flow, and the product with the Jacobian of the latter."""

    def end_of(x: Tensor) -> tuple[Tensor, Tensor]:
        velocity_BTKA = velocity(x, t)
        return x + (1 - t) * velocity_BTKA, velocity_BTKA

    # torch.func differentiates under no_grad too, where control acts
    found: Any = torch.func.vjp(end_of, x, has_aux=True)
    end_BTKA, pull_back, velocity_BTKA = found
    return velocity_BTKA, end_BTKA, pull_back


def prefixed_flow(
    velocity: Velocity,
    x: Float[Tensor, "B T K A"],
    given: Float[Tensor, "B T K A"],
    frozen: int,
    steps: int,
) -> Float[Tensor, "B T K A"]:
    """Where noise `x` flows to if its first `frozen` actions are those of `given` all the time."""
    first_BTdA = given[..., :frozen, :]
    x = torch.cat([first_BTdA, x[..., frozen:, :]], dim=-2)
    for step in range(steps):
        x = x + velocity(x, step / steps) / steps
        # the network has a velocity for given actions too, though it was trained for the rest
        x = torch.cat([first_BTdA, x[..., frozen:, :]], dim=-2)
    return x


__all__ = ["guidance_factor", "guided_flow", "prefixed_flow"]
