"""Intervals of the difference of two success rates, for the very tasks that
were played (Newcombe 1998).

Wilson's intervals of the two rates are joined by the square root of their squared arms. They stay
within [-1, 1] and have a width even where every episode has the same outcome.
"""

from __future__ import annotations

import math

from vla.sim_eval.statistics.errors import check_counts, check_pairs
from vla.sim_eval.statistics.intervals import wilson_interval


def newcombe_interval(
    successes_a: int, n_a: int, successes_b: int, n_b: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of rate A - rate B from different episodes (Newcombe 1998, Statistics in
    Medicine 17:873, method 10).

    Raises StatisticsError if the counts contradict each other.
    """
    check_counts(successes_a, n_a, "a")
    check_counts(successes_b, n_b, "b")
    return _joined(successes_a, n_a, successes_b, n_b, 0.0, confidence)


def newcombe_paired_interval(
    both: int, only_a: int, only_b: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of rate A - rate B from the same episodes (Newcombe 1998, Statistics in
    Medicine 17:2635, method 10).

    Args:
        both, only_a, only_b, neither: pairs of episodes by who solved them.

    Raises StatisticsError if there is no pair or a count is negative.
    """
    check_pairs(only_a, only_b, both + neither)
    n = both + only_a + only_b + neither
    # the four margins of the table of pairs; 0 if one of the policies solves all or none
    solved_a, failed_a = both + only_a, only_b + neither
    solved_b, failed_b = both + only_b, only_a + neither
    product = solved_a * failed_a * solved_b * failed_b
    excess = float(both * neither - only_a * only_b)
    if excess > 0:
        # continuity correction: only what is beyond chance narrows the interval
        excess = max(excess - n / 2, 0.0)
    # phi, the correlation of the two policies' outcomes
    phi = excess / math.sqrt(product) if product else 0.0
    return _joined(solved_a, n, solved_b, n, phi, confidence)


def _joined(
    s_a: int,
    n_a: int,
    s_b: int,
    n_b: int,
    phi: float,
    confidence: float,
) -> tuple[float, float]:
    """The interval from successes `s` of `n` episodes each, whose outcomes correlate by `phi`."""
    low_a, high_a = wilson_interval(s_a, n_a, confidence)
    low_b, high_b = wilson_interval(s_b, n_b, confidence)
    rate_a, rate_b = s_a / n_a, s_b / n_b
    # the difference is least where A is low and B high
    down = _arm(rate_a - low_a, high_b - rate_b, phi)
    up = _arm(high_a - rate_a, rate_b - low_b, phi)
    difference = rate_a - rate_b
    return max(-1.0, difference - down), min(1.0, difference + up)


def _arm(x: float, y: float, phi: float) -> float:
    """Standard deviations of a difference add up so, with the two arms in their place."""
    squared = x * x - 2 * phi * x * y + y * y
    # with phi = 1 and equal arms rounding may leave -1e-20
    return math.sqrt(max(0.0, squared))
