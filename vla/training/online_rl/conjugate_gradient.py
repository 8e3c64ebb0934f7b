"""Linear systems of which only products are known, and the steps that trust regions take by them.

P: parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def conjugate_gradient(
    product: Callable[[Float[Tensor, " P"]], Float[Tensor, " P"]],
    target: Float[Tensor, " P"],
    *,
    iterations: int,
    tolerance: float = 1e-10,
) -> Float[Tensor, " P"]:
    """x with H x = target, as near as so many iterations come.

    Source: Hestenes and Stiefel, 1952, "Methods of conjugate gradients for solving linear systems".

    Args:
        product: v -> H v, for a symmetric positive definite H.
        target: of the products.
        iterations: at most; P of them are exact but for rounding.
        tolerance: of the squared residual, as a share of that at the start.
    """
    x = torch.zeros_like(target)
    # x begins at 0, so nothing of the target is reached yet
    residual = target.clone()
    direction = target.clone()
    size = residual @ residual
    least = tolerance * size
    for _ in range(iterations):
        if size <= least:
            break
        moved = product(direction)
        step = size / (direction @ moved)
        x = x + step * direction
        residual = residual - step * moved
        # conjugate to all directions before: no progress along these is undone
        following = residual @ residual
        direction = residual + following / size * direction
        size = following
    return x


def backtracking(
    accepts: Callable[[float], bool],
    *,
    shrink: float = 0.8,
    tries: int = 10,
) -> float:
    """The first of 1, shrink, shrink^2, ... that is accepted; 0 if none of `tries` is."""
    share = 1.0
    for _ in range(tries):
        if accepts(share):
            return share
        share *= shrink
    return 0.0


__all__ = ["backtracking", "conjugate_gradient"]
