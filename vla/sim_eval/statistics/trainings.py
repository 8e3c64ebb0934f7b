"""Methods, not networks: rates and differences over several trainings and many starts.

A method that is trained again gives another network, and a network that starts elsewhere another
outcome. All trainings of a method play the same starts, so the two factors are crossed: outcomes
are a matrix, trainings by starts. The variance of its mean has three parts (two-way random effects,
Searle, Casella and McCulloch 1992, section 4.3; Bolker et al. 2009 for their use),

    V = training / S + start / N + rest / (S N),

which mean squares estimate without bias. Tests and intervals take Student's t with the degrees of
freedom that Satterthwaite (1946) gives to such a sum: about S - 1 if trainings differ most, many if
starts do. The plain t test of one rate per training has to agree: the greater p, and the wider
interval, of the two count. Without starts the plain test gives false alarms for new starts; without
the plain test two trainings that happen to agree would be taken for many. A large difference can
still be clear with five trainings. benchmarks/coverage.py measures false alarms and coverage.
"""

# S trainings of a method, N starts, R resamples.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla.sim_eval.statistics.errors import StatisticsError, check_fraction
from vla.sim_eval.statistics.intervals import wilson_interval

Matrix = NDArray[np.float64]
_ARRANGEMENTS = 20_000  # more than these are drawn, not counted


@dataclass(frozen=True)
class MethodRate:
    """How often a method solves starts like these, over trainings like these.

    Attributes:
        rate: mean over trainings and starts.
        interval: of the rate (95 %, or as asked).
        trainings, starts: their numbers.
        deviation: standard deviation between trainings, without the chance of the starts.
    """

    rate: float
    interval: tuple[float, float]
    trainings: int
    starts: int
    deviation: float


@dataclass(frozen=True)
class MethodDifference:
    """Two methods over trainings and starts; differences are A minus B.

    Attributes:
        difference: of the mean rates.
        interval: of the difference (95 %, or as asked).
        p_value: two-sided, of "neither method is better", by t over trainings and starts.
        p_permutation: two-sided, of "it makes no difference which method trained which network",
            over all exchanges of trainings; it knows these starts alone.
        p_least: the least p that a permutation of so few trainings can give.
        degrees: of freedom of the t test.
        trainings: of A and of B.
        starts: that both played.
        paired: whether training i of A and training i of B belong together.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    p_permutation: float
    p_least: float
    degrees: float
    trainings: tuple[int, int]
    starts: int
    paired: bool


def method_rate(
    outcomes_SN: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> MethodRate:
    """A method's rate with an interval over trainings and starts.

    Args:
        outcomes_SN: (S, N), success (0 or 1) of each training at each start.
        resamples, seed: of the bootstrap.

    Raises StatisticsError with fewer than two trainings or starts, or outcomes that are no numbers.
    """
    y_SN = _checked(outcomes_SN, "outcomes")
    spread = _Spread.of(y_SN)
    random = _generator(confidence, resamples, seed)
    means_R = _crossed_means(y_SN, *_drawn(random, resamples, y_SN.shape))
    rate = float(y_SN.mean())
    interval = _scaled(means_R, rate, spread, confidence, (0.0, 1.0))
    trainings, starts = y_SN.shape
    if _constant(y_SN):
        # Resampling knows no doubt here. All trainings may succeed by the same easy starts, so the
        # starts alone count.
        interval = wilson_interval(round(rate * starts), starts, confidence)
    return MethodRate(rate, interval, trainings, starts, spread.deviation)


def method_difference(
    a_SN: ArrayLike,
    b_SN: ArrayLike,
    *,
    paired: bool,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> MethodDifference:
    """Whether method A is better than B, for trainings and starts like these.

    Args:
        a_SN, b_SN: (S, N), outcome of each training at each start; column i is the same start for
            both methods, the numbers of trainings may differ.
        paired: row i of both comes from the same origin (the clone from which both continue, the
            same data): what these share cancels. A common seed alone is no such origin.
        resamples, seed: of the bootstrap.

    Raises StatisticsError with fewer than two trainings of a method, or other starts.
    """
    a, b = _checked_pair(a_SN, b_SN, paired)
    spread = _spread_of_difference(a, b, paired)
    random = _generator(confidence, resamples, seed)
    rows_RS, columns_RN = _drawn(random, resamples, a.shape)
    rows_of_b = rows_RS if paired else _drawn(random, resamples, b.shape)[0]
    # the same starts for both: how hard they are cancels
    means_R = _crossed_means(a, rows_RS, columns_RN) - _crossed_means(b, rows_of_b, columns_RN)
    difference = float(a.mean() - b.mean())
    p_permutation, p_least = permutation_test(a.mean(1), b.mean(1), paired=paired)
    return MethodDifference(
        difference=difference,
        interval=_scaled(means_R, difference, spread, confidence, (-1.0, 1.0)),
        p_value=spread.p_value(difference),
        p_permutation=p_permutation,
        p_least=p_least,
        degrees=spread.degrees,
        trainings=(len(a), len(b)),
        starts=a.shape[1],
        paired=paired,
    )


def method_p_value(a_SN: ArrayLike, b_SN: ArrayLike, *, paired: bool) -> float:
    """The p of `method_difference` alone, without its interval.

    Raises StatisticsError as `method_difference` does.
    """
    a, b = _checked_pair(a_SN, b_SN, paired)
    return _spread_of_difference(a, b, paired).p_value(float(a.mean() - b.mean()))


def permutation_test(
    a_S: Sequence[float] | Matrix,
    b_S: Sequence[float] | Matrix,
    *,
    paired: bool,
    seed: int = 0,
) -> tuple[float, float]:
    """Two-sided p of "the methods are exchangeable" from a rate of each training, and the least p
    that so many trainings can give.

    Exact, over all arrangements: the signs of the pairs' differences, or which trainings are A's
    (Fisher 1935). With many trainings 20,000 drawn arrangements stand for all.

    Raises StatisticsError if a method has no training.
    """
    a, b = np.asarray(a_S, dtype=np.float64), np.asarray(b_S, dtype=np.float64)
    if not a.size or not b.size:
        raise StatisticsError("a and b need at least one training each; evaluate one")
    weights, values = _arrangements(a, b, paired, seed)
    differences = weights @ values
    # the observed arrangement is the first; equal sums may differ in their last digit
    reached = np.abs(differences) >= abs(differences[0]) - 1e-12
    least = 1 if len(a) != len(b) and not paired else 2  # the mirror image is as extreme
    return float(reached.mean()), least / len(differences)


def _arrangements(a: Matrix, b: Matrix, paired: bool, seed: int) -> tuple[Matrix, Matrix]:
    """Rows of weights whose product with the values is the difference of an arrangement; the
    observed one first."""
    random = np.random.default_rng(seed)
    n = len(a)
    if paired:
        if 2**n <= _ARRANGEMENTS:
            signs = np.array(list(product((1.0, -1.0), repeat=n)))
        else:
            signs = random.choice((1.0, -1.0), size=(_ARRANGEMENTS, n))
            signs[0] = 1.0
        return signs / n, a - b
    total = n + len(b)
    if math.comb(total, n) <= _ARRANGEMENTS:
        chosen = np.array(list(combinations(range(total), n)))
    else:
        chosen = np.argsort(random.random((_ARRANGEMENTS, total)), axis=1)[:, :n]
        chosen[0] = np.arange(n)
    weights = np.full((len(chosen), total), -1.0 / len(b))
    np.put_along_axis(weights, chosen, 1.0 / n, axis=1)
    return weights, np.concatenate([a, b])


@dataclass(frozen=True)
class _Spread:
    """The variance of a mean (or of a difference of two), in parts.

    Attributes:
        training, start: variance of the mean as the means of trainings, and of starts, show it;
            both hold the rest too.
        rest: the part that neither factor explains.
        training_error, start_error, rest_error: of each part its square over its degrees of
            freedom, half the variance of its estimate.
        trainings: of one method, for the deviation between them.
    """

    training: float
    start: float
    rest: float
    training_error: float
    start_error: float
    rest_error: float
    trainings: int

    @classmethod
    def of(cls, *matrices: Matrix) -> _Spread:
        """Of one matrix (S, N), or of the difference of two that share their starts."""
        training = training_error = rest = rest_error = 0.0
        for y_SN in matrices:
            s, n = y_SN.shape
            between = float(y_SN.mean(1).var(ddof=1)) / s
            centred = y_SN - y_SN.mean(1, keepdims=True) - y_SN.mean(0) + y_SN.mean()
            free = (s - 1) * (n - 1)
            left = float(np.square(centred).sum()) / free / (s * n)
            training += between
            training_error += between**2 / (s - 1)
            rest += left
            rest_error += left**2 / free
        means_N = matrices[0].mean(0) - (matrices[1].mean(0) if len(matrices) > 1 else 0.0)
        n = len(means_N)
        start = float(means_N.var(ddof=1)) / n
        errors = (training_error, start**2 / (n - 1), rest_error)
        return cls(training, start, rest, *errors, trainings=len(matrices[0]))

    def without_certainty(self, matrices: Sequence[Matrix]) -> _Spread:
        """Adds what is unknown of a method whose outcomes are all alike: the next start may differ.

        Its own variance would be 0, as if it could never fail, or never succeed.
        """
        more = 0.0
        for y_SN in matrices:
            if _constant(y_SN):
                n = y_SN.shape[1]
                more += (n + 1) / (n + 2) ** 2 / n  # of one in n + 2 (Laplace)
        n = matrices[0].shape[1]
        start = self.start + more
        return _Spread(
            self.training,
            start,
            self.rest,
            self.training_error,
            start**2 / (n - 1),
            self.rest_error,
            self.trainings,
        )

    @property
    def variance(self) -> float:
        """Of the mean. A part is never negative, though its estimate may be."""
        training = max(self.training - self.rest, 0.0)
        start = max(self.start - self.rest, 0.0)
        return training + start + self.rest

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom of `variance`."""
        counts_training = self.training > self.rest
        counts_start = self.start > self.rest
        rest = 1 - counts_training - counts_start
        error = counts_training * self.training_error + counts_start * self.start_error
        error += rest**2 * self.rest_error
        return self.variance**2 / error if error else math.inf

    @property
    def deviation(self) -> float:
        """Standard deviation between trainings."""
        return math.sqrt(max(self.training - self.rest, 0.0) * self.trainings)

    def reach(self, confidence: float) -> float:
        """Half the width of an interval by t."""
        from scipy.stats import t

        quantiles = t.ppf((1 + confidence) / 2, [degrees for _, degrees in self._tests])
        errors = np.sqrt([variance for variance, _ in self._tests])
        return float((quantiles * errors).max())

    def p_value(self, mean: float) -> float:
        """Two-sided p of a mean of 0."""
        from scipy.stats import t

        if mean == 0:
            return 1.0
        p = [0.0]
        for variance, degrees in self._tests:
            if variance > 0:
                p.append(2 * float(t.sf(abs(mean) / math.sqrt(variance), degrees)))
        return max(p)

    @property
    def _tests(self) -> list[tuple[float, float]]:
        """Variance of the mean and its degrees of freedom: over both factors, and over trainings
        alone."""
        free = self.training**2 / self.training_error if self.training_error else 1.0
        return [(self.variance, self.degrees), (self.training, free)]


def _checked(outcomes: ArrayLike, name: str) -> Matrix:
    y_SN = np.asarray(outcomes, dtype=np.float64)
    if y_SN.ndim != 2 or min(y_SN.shape) < 2:
        raise StatisticsError(
            f"{name} is of shape {y_SN.shape}: expected (trainings, starts), at least 2 of each; "
            "train with another seed, or take wilson_interval and mcnemar_exact for one network"
        )
    if not np.isfinite(y_SN).all():
        raise StatisticsError(f"{name} holds an outcome that is not finite")
    return y_SN


def _checked_pair(a_SN: ArrayLike, b_SN: ArrayLike, paired: bool) -> tuple[Matrix, Matrix]:
    a, b = _checked(a_SN, "a"), _checked(b_SN, "b")
    if a.shape[1] != b.shape[1]:
        raise StatisticsError(
            f"a has {a.shape[1]} starts and b {b.shape[1]}: the columns of both must be the same "
            "starts; leave out those that one lacks"
        )
    if paired and len(a) != len(b):
        raise StatisticsError(
            f"a has {len(a)} trainings and b {len(b)}: pairs need as many of both; or pass "
            "paired=False"
        )
    return a, b


def _spread_of_difference(a: Matrix, b: Matrix, paired: bool) -> _Spread:
    spread = _Spread.of(a - b) if paired else _Spread.of(a, b)
    return spread.without_certainty([a, b])


def _constant(y_SN: Matrix) -> bool:
    return bool((y_SN == y_SN[0, 0]).all())


def _generator(confidence: float, resamples: int, seed: int) -> np.random.Generator:
    check_fraction("confidence", confidence, 0.95)
    if resamples < 100:
        raise StatisticsError(f"resamples is {resamples}: expected 100 or more, for example 10000")
    return np.random.default_rng(seed)


def _drawn(
    random: np.random.Generator, resamples: int, shape: tuple[int, ...]
) -> tuple[Matrix, Matrix]:
    """How often each training and each start is drawn: shares (R, S) and (R, N)."""
    s, n = shape
    rows_RS = random.multinomial(s, np.full(s, 1 / s), size=resamples) / s
    columns_RN = random.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    return rows_RS, columns_RN


def _crossed_means(y_SN: Matrix, rows_RS: Matrix, columns_RN: Matrix) -> Matrix:
    """Means (R,) over drawn trainings and drawn starts: all drawn starts of all drawn trainings
    (Owen 2007, "The pigeonhole bootstrap")."""
    return np.asarray(((rows_RS @ y_SN) * columns_RN).sum(1))


def _scaled(
    means_R: Matrix,
    mean: float,
    spread: _Spread,
    confidence: float,
    bounds: tuple[float, float],
) -> tuple[float, float]:
    """The bootstrap's quantiles, brought to the width that the variance of the mean deserves.

    Drawing both factors counts the rest three times, and few trainings too little. The shape is the
    bootstrap's: near 0 or 1 an interval is not symmetric.
    """
    from statistics import NormalDist

    drawn = float(means_R.std())
    if drawn == 0:
        reach = spread.reach(confidence)
        low, high = mean - reach, mean + reach
    else:
        tail = (1 - confidence) / 2
        z = NormalDist().inv_cdf(1 - tail)
        factor = spread.reach(confidence) / (z * drawn)
        low, high = np.quantile(means_R, [tail, 1 - tail])
        low, high = mean + factor * (low - mean), mean + factor * (high - mean)
    return max(bounds[0], float(low)), min(bounds[1], float(high))


__all__ = [
    "MethodDifference",
    "MethodRate",
    "method_difference",
    "method_p_value",
    "method_rate",
    "permutation_test",
]
