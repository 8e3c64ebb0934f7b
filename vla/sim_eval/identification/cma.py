"""CMA-ES: the minimum of a function that gives no gradient, within a box.

The algorithm and its constants are those of Hansen, *The CMA Evolution Strategy: A Tutorial*
(arXiv 1604.00772, figure 6), without negative weights.

D: numbers that are looked for, P: points of a generation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FIRST_STEP = 0.3
"""Standard deviation of the first generation: a box has the width 1."""


@dataclass(frozen=True)
class Minimum:
    """What was found.

    Attributes:
        point: the best point that was looked at (D,), in [0, 1].
        value: the function's there.
        generations: how many it took.
    """

    point: np.ndarray
    value: float
    generations: int


def minimise(
    function: Callable[[np.ndarray], float],
    dimensions: int,
    rng: np.random.Generator,
    *,
    generations: int,
    population: int,
    tolerance: float = 1e-4,
    after_generation: Callable[[int, float], None] | None = None,
) -> Minimum:
    """The least value of a function of points (D,) in the unit box.

    Args:
        function: is called with points inside the box alone.
        dimensions: D.
        rng: draws the points.
        generations: at most so many.
        population: P, at least 4.
        tolerance: it ends when a generation is narrower, as a share of the box.
        after_generation: called with the number of generations and the best value so far.
    """
    parents = population // 2
    weights = math.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
    weights /= weights.sum()
    effective = 1 / float((weights**2).sum())  # mu_eff
    of_path = (effective + 2) / (dimensions + effective + 5)  # c_sigma
    excess = math.sqrt((effective - 1) / (dimensions + 1)) - 1
    damping = 1 + 2 * max(0.0, excess) + of_path  # d_sigma
    share = effective / dimensions
    of_cumulation = (4 + share) / (dimensions + 4 + 2 * share)  # c_c
    rank_one = 2 / ((dimensions + 1.3) ** 2 + effective)  # c_1
    rank_mu = 2 * (effective - 2 + 1 / effective) / ((dimensions + 2) ** 2 + effective)  # c_mu
    rank_mu = min(1 - rank_one, rank_mu)
    # the expected length of a normal vector
    expected = math.sqrt(dimensions) * (1 - 1 / (4 * dimensions) + 1 / (21 * dimensions**2))

    mean, step = np.full(dimensions, 0.5), FIRST_STEP
    covariance = np.eye(dimensions)
    path, cumulated = np.zeros(dimensions), np.zeros(dimensions)
    best, best_value, generation = mean, math.inf, 0
    for generation in range(1, generations + 1):
        squares, axes = np.linalg.eigh(covariance)
        lengths = np.sqrt(np.maximum(squares, 1e-20))
        if step * lengths.max() < tolerance:
            break
        ways_PD = rng.normal(size=(population, dimensions)) * lengths @ axes.T
        points_PD = mean + step * ways_PD
        # mirrored at the walls: clipped, all points outside would crowd at one place of the wall
        inside_PD = 1 - np.abs(points_PD % 2 - 1)
        values_P = np.array([function(point) for point in inside_PD])
        order = np.argsort(values_P, kind="stable")
        if values_P[order[0]] < best_value:
            best, best_value = inside_PD[order[0]], float(values_P[order[0]])
        chosen_PD = ways_PD[order[:parents]]
        way = weights @ chosen_PD
        mean = mean + step * way
        straight = axes @ ((axes.T @ way) / lengths)  # C^(-1/2) times the way
        path = (1 - of_path) * path + math.sqrt(of_path * (2 - of_path) * effective) * straight
        length = float(np.linalg.norm(path))
        unbiased = length / math.sqrt(1 - (1 - of_path) ** (2 * generation))
        # a path that grows fast says that the steps are too small, not which way they go
        goes_on = float(unbiased < (1.4 + 2 / (dimensions + 1)) * expected)
        gain = math.sqrt(of_cumulation * (2 - of_cumulation) * effective)
        cumulated = (1 - of_cumulation) * cumulated + goes_on * gain * way
        kept = 1 - rank_one - rank_mu
        kept += (1 - goes_on) * rank_one * of_cumulation * (2 - of_cumulation)
        covariance = kept * covariance + rank_one * np.outer(cumulated, cumulated)
        covariance = covariance + rank_mu * (chosen_PD.T * weights) @ chosen_PD
        step *= math.exp(of_path / damping * (length / expected - 1))
        if after_generation is not None:
            after_generation(generation, best_value)
    return Minimum(best, best_value, generation)


__all__ = ["Minimum", "minimise"]
