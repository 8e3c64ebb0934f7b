"""When the sequential comparison stops: exact, from the probabilities of all its paths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla.sim_eval.statistics.errors import StatisticsError, check_fraction
from vla.sim_eval.statistics.power import (
    MOST_EPISODES,
    episodes_needed,
    first_true,
    pair_probabilities,
)
from vla.sim_eval.statistics.sequential import paired_log_e_value


@dataclass(frozen=True)
class SequentialPlan:
    """A sequential comparison with the power of a fixed test.

    Attributes:
        limit: pairs after which to give up: the difference is found within
            them as often as the power says.
        expected: mean number of pairs played, if the rates are the planned ones.
            Equal policies play `limit`.
        share: what `SequentialComparison(share=...)` is to bet on; None for its default.
    """

    limit: int
    expected: float
    share: float | None


def sequential_plan(
    rate_a: float,
    rate_b: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    correlation: float = 0.0,
    informed: bool = True,
) -> SequentialPlan:
    """Pairs that `SequentialComparison` needs for true rates `rate_a` and `rate_b`.

    Args:
        informed: bet on the share of wins that these rates imply; else the
            default bet, which knows no rates.

    Raises:
        StatisticsError: as `episodes_needed`.
    """
    check_fraction("power", power, 0.8)
    guess = episodes_needed(
        rate_a, rate_b, power=power, alpha=alpha, paired=True, correlation=correlation
    )
    win, loss = pair_probabilities(rate_a, rate_b, correlation)
    differ = min(1.0, win + loss)
    true_share = max(win, loss) / differ
    # at most 0.95: a bet on 1 would lose everything at the first loss
    share = min(true_share, 0.95) if informed else None
    stops = _stopping_times(true_share, alpha, share, power)
    limit = first_true(lambda n: _decided_within(n, stops, differ) >= power, guess)
    return SequentialPlan(limit, _expected_pairs(limit, stops, differ), share)


def _stopping_times(
    true_share: float, alpha: float, share: float | None, power: float
) -> NDArray[np.float64]:
    """Probability of deciding at the d-th pair that differs, d = 0, 1, ..., until
    hardly a path is undecided."""
    threshold = math.log(1 / alpha)
    undecided = (1 - power) / 100
    # probabilities of offset, offset + 1, ... wins so far: only those of undecided paths are kept
    alive, offset = np.ones(1), 0
    # from `critical` wins on, and mirrored, the comparison is decided
    stops, critical = [0.0], 0
    while alive.sum() > undecided:
        if len(stops) > 2 * MOST_EPISODES:
            raise StatisticsError(
                "rates differ too little for a sequential plan; give a greater difference"
            )
        stepped = np.append(alive * (1 - true_share), 0.0)
        stepped[1:] += alive * true_share
        pairs = len(stops)
        critical = _critical_wins(pairs, critical, threshold, share)
        first = max(0, pairs - critical + 1 - offset)
        last = min(len(stepped), critical - offset)
        alive = stepped[first:last]
        decided = stepped[:first].sum() + stepped[last:].sum()
        stops.append(float(decided))
        offset += first
    return np.array(stops)


def _critical_wins(
    pairs: int,
    critical: int,
    threshold: float,
    share: float | None,
) -> int:
    """Fewest wins (at least half) of `pairs` that decide, given those of one pair fewer;
    pairs + 1 if none do."""
    # it never falls when a pair is added, so the search goes on where the last one ended
    critical = max(critical, (pairs + 1) // 2)
    while critical <= pairs:
        if paired_log_e_value(critical, pairs - critical, share=share) >= threshold:
            break
        critical += 1
    return critical


def _decided_within(
    pairs: int,
    stops: NDArray[np.float64],
    differ: float,
) -> float:
    """Probability that at most `pairs` pairs decide: that enough of them differ, for each
    number that may be enough."""
    from scipy.stats import binom

    enough_differ = binom.sf(np.arange(len(stops)) - 1, pairs, differ)
    return float(stops @ enough_differ)


def _expected_pairs(
    limit: int,
    stops: NDArray[np.float64],
    differ: float,
) -> float:
    """E min(T, limit). By Wald's identity it is the mean number of differing pairs
    seen by then, over `differ`.

    That number is min(X, Y) of two independent ones: X differing pairs would
    decide, Y are among `limit` pairs.
    """
    from scipy.stats import binom

    at_least = 1 - np.concatenate([[0.0], np.cumsum(stops)[:-1]])  # P(X >= d)
    as_many_played = binom.sf(np.arange(len(stops) - 1), limit, differ)  # P(Y >= d)
    return float((at_least[1:] * as_many_played).sum() / differ)
