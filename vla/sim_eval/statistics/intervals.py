"""Confidence intervals of success rates: pure functions of counts.

At the sample sizes of robot evaluation (10 to 100 episodes) the textbook interval p +- z
sqrt(p(1-p)/n) is wrong: it has zero width at 0 or n successes. Wilson's score interval is right on
average over p; the interval of Clopper and Pearson is never less than right, and wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla.sim_eval.statistics.errors import StatisticsError, check_counts, check_fraction

Interval = Callable[[int, int], tuple[float, float]]


def wilson_interval(
    successes: int,
    n: int,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Score interval of a success rate (Wilson, 1927).

    Raises StatisticsError if the counts contradict each other.
    """
    check_counts(successes, n)
    check_fraction("confidence", confidence, 0.95)
    # Not scipy's binomtest(...).proportion_ci(method="wilson"), which is the same number but
    # for the last digit: these bounds stand in every results.json, and a table of thousands
    # of them must not import scipy.stats (a second) and test each pair of counts (a
    # thousandfold of the time).
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    variance = rate * (1 - rate) / n + z * z / (4 * n * n)
    half = z / scale * math.sqrt(variance)
    # at the ends the bound is exactly 0 or 1; rounding would leave 1e-17 beside it
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def clopper_pearson(
    successes: int,
    n: int,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Exact interval of a success rate (Clopper and Pearson, 1934): covers every rate at
    least as often as it says."""
    check_counts(successes, n)
    check_fraction("confidence", confidence, 0.95)
    from scipy.stats import binomtest  # a second of imports that Wilson's interval does without

    interval = binomtest(successes, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def macro_rate(rates: Iterable[float]) -> float:
    """Mean of the groups' rates, each group weighing the same.

    Raises StatisticsError if there is none.
    """
    values = list(rates)
    if not values:
        raise StatisticsError("no rates to average: expected at least one group of episodes")
    # fsum is exact, so the order of the groups cannot change the last digit
    return math.fsum(values) / len(values)


def half_width(rate: float, n: int, confidence: float = 0.95) -> float:
    """Half the width of Wilson's interval for a success rate that is about
    `rate` over `n` episodes."""
    if not 0 <= rate <= 1:
        raise StatisticsError(f"rate is {rate:g}: expected a success rate, 0 to 1")
    # for the nearest whole number of successes: an interval of counts has no other
    low, high = wilson_interval(round(rate * n), n, confidence)
    return (high - low) / 2


def coverage(
    interval: Interval,
    n: int,
    p: ArrayLike,
) -> NDArray[np.float64]:
    """How often `interval` holds the true rate: the exact sum over the binomial's
    n + 1 outcomes, no simulation.

    Args:
        interval: (successes, n) -> (low, high), for example `wilson_interval`.
        n: episodes.
        p: true success rates, of any shape.

    Returns:
        The probability that low <= p <= high, in the shape of `p`.
    """
    from scipy.stats import binom

    check_counts(0, n)
    rates = np.asarray(p, dtype=np.float64)[..., None]  # a last axis for the outcomes
    counts = np.arange(n + 1)
    low, high = np.array([interval(int(k), n) for k in counts]).T
    inside = (low <= rates) & (rates <= high)
    chances = binom.pmf(counts, n, rates)
    return np.asarray((chances * inside).sum(-1))
