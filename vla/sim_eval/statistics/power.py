"""Power of the exact tests, and the episodes that a difference needs.

Nothing is simulated: the power is the probability of all outcomes that the test rejects. It is known to have teeth: one
episode more may lower it a little, because the test's level moves in steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vla.sim_eval.statistics.errors import StatisticsError, check_fraction

MOST_EPISODES = 20_000
_MOST_EXACT = 400  # episodes per policy; Barnard's test looks at the square of it


def power_of(
    n: int,
    rate_a: float,
    rate_b: float,
    *,
    alpha: float = 0.05,
    paired: bool,
    correlation: float = 0.0,
) -> float:
    """Probability that `n` episodes per policy are significant at `alpha`, two-sided, for these true rates.

    Args:
        paired: McNemar's exact test on the same episodes; else Barnard's on different ones: exact up to 400 episodes
            per policy, and the normal approximation of the pooled test above.
        correlation: of the two policies' successes in one and the same episode; 0 is the cautious choice. The one of
            an earlier paired evaluation is `numpy.corrcoef(a, b)[0, 1]`.

    Raises:
        StatisticsError: rates that are no rates, or a correlation that they do not allow.
    """
    check_fraction("alpha", alpha, 0.05)
    if n < 1:
        raise StatisticsError(f"n is {n}: expected at least one episode per policy")
    if paired:
        return _mcnemar_power(n, *pair_probabilities(rate_a, rate_b, correlation), alpha)
    _check_rates(rate_a, rate_b)
    return _barnard_power(n, rate_a, rate_b, alpha)


def episodes_needed(
    rate_a: float,
    rate_b: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    paired: bool,
    correlation: float = 0.0,
) -> int:
    """Episodes per policy with which `power_of` reaches `power`, while one episode fewer does not.

    Raises:
        StatisticsError: equal rates; more than 20,000 episodes; and what `power_of` raises.
    """
    check_fraction("power", power, 0.8)
    check_fraction("alpha", alpha, 0.05)
    guess = _checked_guess(rate_a, rate_b, power, alpha, correlation if paired else None)
    reaches = functools.partial(
        power_of, rate_a=rate_a, rate_b=rate_b, alpha=alpha, paired=paired, correlation=correlation
    )
    return first_true(lambda n: reaches(n) >= power, guess)


def pair_probabilities(
    rate_a: float, rate_b: float, correlation: float = 0.0
) -> tuple[float, float]:
    """Probabilities that A alone, and that B alone, solves an episode which both play.

    Raises:
        StatisticsError: rates that are no rates, or a correlation that no two such policies can have.
    """
    _check_rates(rate_a, rate_b)
    spread = math.sqrt(rate_a * (1 - rate_a) * rate_b * (1 - rate_b))
    both = rate_a * rate_b + correlation * spread
    lowest, highest = max(0.0, rate_a + rate_b - 1), min(rate_a, rate_b)
    if not lowest - 1e-12 <= both <= highest + 1e-12 or (spread == 0 and correlation != 0):
        bounds = [
            (edge - rate_a * rate_b) / spread if spread else 0.0 for edge in (lowest, highest)
        ]
        raise StatisticsError(
            f"correlation is {correlation:g}: policies with rates {rate_a:g} and {rate_b:g} "
            f"can have one from {bounds[0]:.2f} to {bounds[1]:.2f}"
        )
    return max(0.0, rate_a - both), max(0.0, rate_b - both)


def first_true(reaches: Callable[[int], bool], guess: int) -> int:
    """Some n >= 1 with reaches(n) and not reaches(n - 1), near `guess`; the first n where `reaches` stays true."""
    low, high = 0, max(1, guess)
    while not reaches(high):
        low, high = high, high + max(1, high // 4)
    if low == 0 and high > 8 and not reaches(near := high * 3 // 4):
        low = near
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def _check_rates(*rates: float) -> None:
    for rate in rates:
        if not 0 <= rate <= 1:
            raise StatisticsError(
                f"rate is {rate:g}: expected a success rate, 0 to 1; write 60 % as 0.6"
            )


def _checked_guess(
    rate_a: float, rate_b: float, power: float, alpha: float, correlation: float | None
) -> int:
    """Episodes by the normal approximation of the paired (Miettinen 1968) or unpaired test (Fleiss 1981)."""
    _check_rates(rate_a, rate_b)
    difference = abs(rate_a - rate_b)
    if difference < 1e-9:
        raise StatisticsError(
            f"rates are {rate_a:g} and {rate_b:g}: no number of episodes tells equal policies apart; "
            "give the smallest difference that matters"
        )
    if correlation is None:
        mean = (rate_a + rate_b) / 2
        null, true = 2 * mean * (1 - mean), rate_a * (1 - rate_a) + rate_b * (1 - rate_b)
    else:
        null = sum(pair_probabilities(rate_a, rate_b, correlation))
        true = null - difference**2
    normal = NormalDist()
    z_alpha, z_power = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)
    n = ((z_alpha * math.sqrt(null) + z_power * math.sqrt(max(0.0, true))) / difference) ** 2
    if n > MOST_EPISODES:
        raise StatisticsError(
            f"rates {rate_a:g} and {rate_b:g} need about {n:.0f} episodes per policy, and {MOST_EPISODES} is the most "
            "that is planned for; give a greater difference, or less power"
        )
    return math.ceil(n)


def _mcnemar_power(n: int, win: float, loss: float, alpha: float) -> float:
    from scipy.stats import binom

    differ = win + loss
    if differ == 0:
        return 0.0
    pairs = np.arange(n + 1)
    # The most losses (or wins) among the pairs that differ at which p <= alpha; -1 where there is none.
    most = binom.ppf(alpha / 2, pairs, 0.5)
    most = np.where(2 * binom.cdf(most, pairs, 0.5) <= alpha, most, most - 1)
    rejected = binom.cdf(most, pairs, loss / differ) + binom.cdf(most, pairs, win / differ)
    return float(binom.pmf(pairs, n, min(1.0, differ)) @ np.where(most < 0, 0.0, rejected))


def _barnard_power(n: int, rate_a: float, rate_b: float, alpha: float) -> float:
    from scipy.stats import binom

    if n > _MOST_EXACT:
        return _pooled_power(n, rate_a, rate_b, alpha)
    counts = np.arange(n + 1)
    return float(
        binom.pmf(counts, n, rate_a) @ _barnard_rejects(n, alpha) @ binom.pmf(counts, n, rate_b)
    )


@functools.lru_cache(maxsize=32)
def _barnard_rejects(n: int, alpha: float) -> NDArray[np.bool_]:
    """Whether Barnard's p <= alpha for (successes of A, of B), n episodes each: (n + 1, n + 1).

    Outcomes are ordered by the pooled Wald statistic; from the most extreme on, as many are rejected as keep the
    probability of rejection within alpha for every common rate (on a grid, fine near 0, symmetric about 1/2).
    """
    from scipy.stats import binom

    counts = np.arange(n + 1)
    a, b = counts[:, None], counts[None, :]
    variance = (a + b) * (2 * n - a - b)
    statistic = np.round((a - b) ** 2 / np.maximum(variance, 1), 12)
    values, order = np.unique(-statistic, return_inverse=True)
    rates = np.unique(np.concatenate([np.linspace(0.01, 0.5, 48), np.geomspace(0.5 / n, 0.5, 48)]))
    level = np.zeros(len(values))
    for rate in rates:
        chances = binom.pmf(counts, n, rate)
        mass = np.bincount(
            order.ravel(), weights=np.outer(chances, chances).ravel(), minlength=len(values)
        )
        level = np.maximum(level, np.cumsum(mass))
    return np.asarray((level <= alpha)[order].reshape(n + 1, n + 1))


def _pooled_power(n: int, rate_a: float, rate_b: float, alpha: float) -> float:
    normal, mean, difference = NormalDist(), (rate_a + rate_b) / 2, abs(rate_a - rate_b)
    limit = normal.inv_cdf(1 - alpha / 2) * math.sqrt(2 * mean * (1 - mean) / n)
    deviation = math.sqrt((rate_a * (1 - rate_a) + rate_b * (1 - rate_b)) / n)
    if deviation == 0:
        return float(difference > limit)
    return normal.cdf((difference - limit) / deviation) + normal.cdf(
        (-difference - limit) / deviation
    )
