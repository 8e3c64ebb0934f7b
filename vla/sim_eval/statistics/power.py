"""Power of the exact tests, and the episodes that a difference needs.

Nothing is simulated: the power is the probability of all outcomes that the test
rejects. It is known to have teeth: one episode more may lower it a little, because the
test's level moves in steps.
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
    """Probability that `n` episodes per policy are significant at `alpha`,
    two-sided, for these true rates.

    Args:
        paired: McNemar's exact test on the same episodes; else Barnard's on different ones: exact
            up to 400 episodes per policy, and the normal approximation of the pooled test above.
        correlation: of the two policies' successes in one and the same episode; 0 is the cautious
            choice. The one of an earlier paired evaluation is `numpy.corrcoef(a, b)[0, 1]`.

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
        StatisticsError: rates that are no rates, or a correlation that no two such policies can
            have.
    """
    _check_rates(rate_a, rate_b)
    # covariance of two Bernoulli variables: P(both) = p q + correlation * sqrt(p (1-p) q (1-q))
    spread = math.sqrt(rate_a * (1 - rate_a) * rate_b * (1 - rate_b))
    both = rate_a * rate_b + correlation * spread
    # Frechet's bounds of P(both): no two policies with these rates agree less, or more
    lowest, highest = max(0.0, rate_a + rate_b - 1), min(rate_a, rate_b)
    possible = lowest - 1e-12 <= both <= highest + 1e-12
    # a policy that always does the same correlates with nothing
    if not possible or (spread == 0 and correlation != 0):
        edges = (lowest, highest)
        least, most = ((edge - rate_a * rate_b) / spread if spread else 0.0 for edge in edges)
        raise StatisticsError(
            f"correlation is {correlation:g}: policies with rates {rate_a:g} and {rate_b:g} "
            f"can have one from {least:.2f} to {most:.2f}"
        )
    # rounding may leave -1e-17
    return max(0.0, rate_a - both), max(0.0, rate_b - both)


def first_true(reaches: Callable[[int], bool], guess: int) -> int:
    """Some n >= 1 with reaches(n) and not reaches(n - 1), near `guess`; the first n if
    `reaches` stays true from there.

    Power has teeth (see the module's docstring), so a search from 1 would stop at a lucky small n.
    """
    # throughout: reaches(high), and not reaches(low) or low = 0
    low, high = 0, max(1, guess)
    while not reaches(high):
        low, high = high, high + max(1, high // 4)
    if low == 0 and high > 8:
        # the guess was enough: begin just below it, not at 1, for each call is dear
        near = high * 3 // 4
        if not reaches(near):
            low = near
    while high - low > 1:
        middle = (low + high) // 2
        if reaches(middle):
            high = middle
        else:
            low = middle
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
    """Episodes by the normal approximation of the paired (Miettinen 1968) or
    unpaired test (Fleiss 1981)."""
    _check_rates(rate_a, rate_b)
    difference = abs(rate_a - rate_b)
    if difference < 1e-9:
        raise StatisticsError(
            f"rates are {rate_a:g} and {rate_b:g}: no number of episodes tells equal "
            "policies apart; give the smallest difference that matters"
        )
    # variance of one episode's difference, under "equal rates" and under the true ones
    if correlation is None:
        mean = (rate_a + rate_b) / 2
        null = 2 * mean * (1 - mean)
        true = rate_a * (1 - rate_a) + rate_b * (1 - rate_b)
    else:
        null = sum(pair_probabilities(rate_a, rate_b, correlation))
        true = null - difference**2
    normal = NormalDist()
    z_alpha, z_power = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)
    distance = z_alpha * math.sqrt(null) + z_power * math.sqrt(max(0.0, true))
    n = (distance / difference) ** 2
    if n > MOST_EPISODES:
        raise StatisticsError(
            f"rates {rate_a:g} and {rate_b:g} need about {n:.0f} episodes per policy, and "
            f"{MOST_EPISODES} is the most that is planned for; "
            "give a greater difference, or less power"
        )
    return math.ceil(n)


def _mcnemar_power(
    n: int,
    win: float,
    loss: float,
    alpha: float,
) -> float:
    """Of n pairs, of which A alone solves a share `win` and B alone a share `loss`."""
    from scipy.stats import binom

    differ = win + loss
    if differ == 0:
        return 0.0
    # the sum over how many of the pairs differ, (n + 1,): given that
    # number, the test is one of a coin
    pairs = np.arange(n + 1)
    # the most losses (or wins) among the pairs that differ at which p <= alpha; -1 if there is none
    most = binom.ppf(alpha / 2, pairs, 0.5)
    # ppf is the first count whose tail reaches alpha / 2, which is one too many
    # unless it meets it exactly
    most = np.where(2 * binom.cdf(most, pairs, 0.5) <= alpha, most, most - 1)
    for_a = binom.cdf(most, pairs, loss / differ)
    for_b = binom.cdf(most, pairs, win / differ)
    rejected = for_a + for_b
    rejected = np.where(most < 0, 0.0, rejected)
    return float(binom.pmf(pairs, n, min(1.0, differ)) @ rejected)


def _barnard_power(
    n: int,
    rate_a: float,
    rate_b: float,
    alpha: float,
) -> float:
    from scipy.stats import binom

    if n > _MOST_EXACT:
        return _pooled_power(n, rate_a, rate_b, alpha)
    counts = np.arange(n + 1)
    chances_a = binom.pmf(counts, n, rate_a)
    chances_b = binom.pmf(counts, n, rate_b)
    return float(chances_a @ _barnard_rejects(n, alpha) @ chances_b)


@functools.lru_cache(maxsize=32)
def _barnard_rejects(n: int, alpha: float) -> NDArray[np.bool_]:
    """Whether Barnard's p <= alpha for (successes of A, of B), n episodes each: (n + 1, n + 1).

    Outcomes are ordered by the pooled Wald statistic; from the most extreme on, as many are
    rejected as keep the probability of rejection within alpha for every common rate (on a grid,
    fine near 0, symmetric about 1/2).
    """
    from scipy.stats import binom

    # scipy's barnard_exact gives one outcome's p; power needs all (n + 1)^2,
    # and here they share one sort
    counts = np.arange(n + 1)
    a, b = counts[:, None], counts[None, :]
    variance = (a + b) * (2 * n - a - b)
    # rounded: outcomes that tie in exact arithmetic must be rejected together
    statistic = np.round((a - b) ** 2 / np.maximum(variance, 1), 12)
    values, order = np.unique(-statistic, return_inverse=True)
    order = order.ravel()
    even = np.linspace(0.01, 0.5, 48)
    fine = np.geomspace(0.5 / n, 0.5, 48)
    rates = np.unique(np.concatenate([even, fine]))
    level = np.zeros(len(values))
    for rate in rates:
        chances = binom.pmf(counts, n, rate)
        joint = np.outer(chances, chances).ravel()
        mass = np.bincount(order, weights=joint, minlength=len(values))
        # the worst common rate: the test does not know it
        level = np.maximum(level, np.cumsum(mass))
    return np.asarray((level <= alpha)[order].reshape(n + 1, n + 1))


def _pooled_power(
    n: int,
    rate_a: float,
    rate_b: float,
    alpha: float,
) -> float:
    normal = NormalDist()
    mean, difference = (rate_a + rate_b) / 2, abs(rate_a - rate_b)
    # the test takes the variance of equal rates, the outcomes have that of the true ones
    limit = normal.inv_cdf(1 - alpha / 2)
    limit *= math.sqrt(2 * mean * (1 - mean) / n)
    variance = rate_a * (1 - rate_a) + rate_b * (1 - rate_b)
    deviation = math.sqrt(variance / n)
    if deviation == 0:
        return float(difference > limit)
    return normal.cdf((difference - limit) / deviation) + normal.cdf(
        (-difference - limit) / deviation
    )
