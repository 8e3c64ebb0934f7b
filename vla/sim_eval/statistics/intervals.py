"""Confidence intervals of success rates: pure functions of counts.

At the sample sizes of robot evaluation (10 to 100 episodes) the textbook interval p +- z sqrt(p(1-p)/n) is
wrong: it has zero width at 0 or n successes. Wilson's score interval is right on average over p; the
interval of Clopper and Pearson is never less than right, and wider.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist


def _check(successes: int, n: int, confidence: float) -> None:
    if n < 1:
        raise ValueError(f"n is {n}: an interval needs at least one episode")
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}: expected 0 to n = {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: expected a value between 0 and 1, for example 0.95")


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a success rate (Wilson, 1927). Raises ValueError where the counts contradict each other."""
    _check(successes, n, confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; rounding would leave 1e-17 beside it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a success rate (Clopper and Pearson, 1934): covers at least `confidence` for every rate."""
    _check(successes, n, confidence)
    from scipy.stats import beta  # a second of imports that nothing else here needs

    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def macro_rate(rates: Iterable[float]) -> float:
    """Mean of the groups' rates, each group weighing the same. Raises ValueError where there is none."""
    values = list(rates)
    if not values:
        raise ValueError("no rates to average")
    return math.fsum(values) / len(values)
