"""Exact tests of the difference between two policies' success rates, and the
correction for many of them.

Same tasks and seeds for both policies make pairs, and McNemar's test of the pairs in which the two
disagree. Different episodes make two samples, and Barnard's test, which is more powerful than
Fisher's. All p-values are two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vla.sim_eval.statistics.errors import (
    StatisticsError,
    check_counts,
    check_fraction,
    check_pairs,
)


def mcnemar_exact(wins: int, losses: int, ties: int = 0) -> float:
    """p-value of "neither policy is better" from paired episodes (McNemar 1947,
    in its exact binomial form).

    Args:
        wins: pairs that only the first policy solved.
        losses: pairs that only the second solved.
        ties: pairs that both or neither solved. They say nothing about the difference and do not
            change p; with them "all pairs agree" (p = 1) differs from "there is no pair".

    Raises:
        StatisticsError: no pair at all, or a negative count.
    """
    check_pairs(wins, losses, ties)
    # binomtest refuses a coin that is never tossed
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5).pvalue)


def barnard(
    successes_a: int,
    n_a: int,
    successes_b: int,
    n_b: int,
) -> float:
    """p-value of "equal success rates" from unpaired episodes (Barnard
    1945, pooled Wald statistic).

    Raises:
        StatisticsError: a policy without episodes, or with more successes than episodes.
    """
    check_counts(successes_a, n_a, "a")
    check_counts(successes_b, n_b, "b")
    # all alike: the pooled statistic is 0 / 0, and scipy would give NaN
    if successes_a + successes_b in (0, n_a + n_b):
        return 1.0
    from scipy.stats import barnard_exact

    table = [[successes_a, successes_b], [n_a - successes_a, n_b - successes_b]]
    return float(barnard_exact(table).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the order given (Holm 1979): the chance of
    any false alarm stays alpha.

    Raises:
        StatisticsError: a value that is no probability.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise StatisticsError(f"p_values holds {p}: expected probabilities, 0 to 1")
    count = len(p_values)
    adjusted = [0.0] * count
    ascending = sorted(range(count), key=lambda i: p_values[i])
    highest = 0.0
    for rank, index in enumerate(ascending):
        scaled = min(1.0, (count - rank) * p_values[index])
        # never below that of a smaller p: Holm stops at the first hypothesis that is not rejected
        highest = max(highest, scaled)
        adjusted[index] = highest
    return adjusted


def minimum_pairs(alpha: float = 0.05) -> int:
    """Pairs in which the policies must disagree before McNemar's test can reach
    `alpha` at all: 6 for 0.05."""
    check_fraction("alpha", alpha, 0.05)
    return math.ceil(1 - math.log2(alpha))  # n wins of n: p = 2 / 2^n


def smallest_significant(n: int, alpha: float = 0.05) -> int | None:
    """Wins among `n` pairs with different outcomes from which on p <= alpha;
    None if no number reaches it."""
    check_fraction("alpha", alpha, 0.05)
    if n < 0:
        raise StatisticsError(f"n is {n}: expected a count of pairs, 0 or more")
    # the tail of the fair coin, from no loss on; two-sided, so it counts twice
    tail, chance = 0.0, 0.5**n
    for losses in range(n // 2 + 1):
        tail += math.comb(n, losses) * chance
        if 2 * tail > alpha:
            return None if losses == 0 else n - losses + 1
    return n - n // 2
