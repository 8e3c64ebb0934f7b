"""A comparison that may be looked at after every episode, and stopped when it has decided.

A fixed-size test that is repeated after every episode until it is significant finds a
difference between equal policies sooner or later. An e-process does not: it is a bet against
"the policies are equal" whose expected wealth is at most 1 whenever one stops, so by Ville's
inequality the chance that it ever reaches 1/alpha is at most alpha (Ville 1939; Shafer 2021;
Ramdas, Grunwald, Vovk and Shafer 2023).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla.sim_eval.statistics.errors import StatisticsError, check_fraction


def paired_log_e_value(
    wins: ArrayLike,
    losses: ArrayLike,
    *,
    prior: float = 2.0,
    share: float | None = None,
) -> NDArray[np.float64]:
    """Log of the paired comparison's e-value after `wins` and `losses` (of any shape)
    among the pairs that differ.

    If the policies are equal, the winner of a pair that differs is a fair coin. The e-value is the
    likelihood of the wins under another coin over that under the fair one, 2^-(wins + losses). The
    other coin is drawn from Beta(prior, prior), which gives B(prior + wins, prior + losses) /
    B(prior, prior) (Robbins 1970); or, if a `share` of wins is named, it shows A with that
    probability or B with it, by the toss of a fair coin.
    """
    from scipy.special import betaln, xlogy

    # in logs: after a few hundred pairs both likelihoods are below the smallest float
    w = np.asarray(wins, dtype=np.float64)
    v = np.asarray(losses, dtype=np.float64)
    if share is None:
        likelihood = betaln(prior + w, prior + v) - betaln(prior, prior)
    else:
        # xlogy(0, 0) is 0, where 0 * log(0) would be NaN
        for_a = xlogy(w, share) + xlogy(v, 1 - share)
        for_b = xlogy(v, share) + xlogy(w, 1 - share)
        # the mean of both bets: two-sided
        likelihood = np.logaddexp(for_a, for_b) - math.log(2)
    return np.asarray(likelihood + (w + v) * math.log(2))


def unpaired_log_factor(
    a: ArrayLike,
    b: ArrayLike,
    successes_a: ArrayLike,
    successes_b: ArrayLike,
    episodes: ArrayLike,
    *,
    prior: float = 0.5,
) -> NDArray[np.float64]:
    """Log of what the unpaired comparison's e-value is multiplied by for outcomes `a`
    and `b`, given those before.

    The bet of Turner, Ly and Grunwald (2024, "Generic E-variables for exact sequential k-sample
    tests"): rates A and B as estimated before the episode, against their mean m for both. It is
    fair for every common rate p: with s = (A - m) / (m (1 - m)) its expected factor is
    (1 + s (p - m)) (1 - s (p - m)) <= 1.

    Args:
        a, b: success of either policy, of any shape.
        successes_a, successes_b, episodes: counts before; each policy has played `episodes`.
    """
    # from the episodes before alone: a bet that knew this outcome would not be fair
    played = np.asarray(episodes) + 2 * prior
    rate_a = (np.asarray(successes_a) + prior) / played
    rate_b = (np.asarray(successes_b) + prior) / played
    mean = (rate_a + rate_b) / 2
    factor_a = np.where(a, rate_a / mean, (1 - rate_a) / (1 - mean))
    factor_b = np.where(b, rate_b / mean, (1 - rate_b) / (1 - mean))
    return np.asarray(np.log(factor_a) + np.log(factor_b))


class _EProcess:
    """Wealth of a bet against the null, and its highest value so far."""

    def __init__(self) -> None:
        self._log_e = 0.0
        self._highest = 0.0

    @property
    def e_value(self) -> float:
        """Wealth of the bet now; at most 1 in expectation if the policies are equal."""
        # exp(710) overflows
        return math.exp(min(self._log_e, 700.0))

    @property
    def p_value(self) -> float:
        """1 / the highest e-value so far: valid however often one looks and whenever one stops."""
        return math.exp(-self._highest)

    def decided(self, alpha: float = 0.05) -> bool:
        """Whether the policies differ, with a chance of at most `alpha` that this
        is ever said of equal ones."""
        check_fraction("alpha", alpha, 0.05)
        return self.p_value <= alpha

    def _become(self, log_e: float) -> None:
        self._log_e = log_e
        self._highest = max(self._highest, log_e)


class SequentialComparison(_EProcess):
    """Anytime-valid, two-sided comparison of two policies that play the same episodes.

    What it tests: in every episode, given those before, A alone solves it as often as B alone. With
    several tasks play them in random order: in blocks, one task after the other might favour one
    policy for a while and then the other.

        comparison = SequentialComparison()
        for a, b in pairs:  # success of A and of B in the same task with the same seed
            comparison.update(a, b)
            if comparison.decided(0.05):
                break

    Args:
        prior: of the wins' share among pairs that differ, Beta(prior, prior);
            more favours small differences.
        share: bet on this share (or its mirror image) alone, as planned by
            `sequential_plan`: fewer episodes if the plan is right, more if it is not. The
            false alarms are bounded either way.

    Attributes:
        wins, losses, ties: pairs that only A, only B, and both or neither solved.

    Raises:
        StatisticsError: `prior` is not positive, or `share` not between 0 and 1.
    """

    def __init__(
        self,
        *,
        prior: float = 2.0,
        share: float | None = None,
    ) -> None:
        super().__init__()
        if prior <= 0:
            raise StatisticsError(f"prior is {prior}: expected a positive number, for example 2")
        if share is not None:
            check_fraction("share", share, 0.7)
        self._prior, self._share = prior, share
        self.wins = self.losses = self.ties = 0

    def update(self, a: bool, b: bool) -> None:
        """Adds one pair of outcomes."""
        # a tie is no toss of the coin: it neither wins nor loses anything
        if bool(a) == bool(b):
            self.ties += 1
            return
        self.wins += bool(a)
        self.losses += bool(b)
        # from the totals, not by a factor per pair: rounding does not add up
        log_e = paired_log_e_value(self.wins, self.losses, prior=self._prior, share=self._share)
        self._become(float(log_e))

    @property
    def pairs(self) -> int:
        """Number of pairs seen so far."""
        return self.wins + self.losses + self.ties


class UnpairedSequentialComparison(_EProcess):
    """Anytime-valid, two-sided comparison of two policies that play different
    episodes, one each per update.

    See `unpaired_log_factor` for the formula.

    Attributes:
        successes: of A and of B.
        episodes: of each.

    Raises StatisticsError if `prior`, the pseudo-count of successes and of failures, is not
    positive.
    """

    def __init__(self, prior: float = 0.5) -> None:
        super().__init__()
        if prior <= 0:
            raise StatisticsError(f"prior is {prior}: expected a positive number, for example 0.5")
        self._prior = prior
        self.successes = [0, 0]
        self.episodes = 0

    def update(self, a: bool, b: bool) -> None:
        """Adds the outcome of one episode of A and one of B."""
        before_a, before_b = self.successes
        log_factor = unpaired_log_factor(
            bool(a), bool(b), before_a, before_b, self.episodes, prior=self._prior
        )
        self.successes = [before_a + bool(a), before_b + bool(b)]
        self.episodes += 1
        self._become(self._log_e + float(log_factor))
