"""How predicted values agree with the returns that followed, and whether two orders agree.

Pure functions. N: steps, P: policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class ReliabilityBin:
    """Steps of about the same predicted value.

    Attributes:
        count: how many.
        predicted: their mean prediction.
        outcome: the mean of the returns that followed.
    """

    count: int
    predicted: float
    outcome: float


@dataclass(frozen=True)
class Calibration:
    """Predictions beside outcomes.

    Attributes:
        bins: by rising prediction, each with about as many steps.
        bias: mean of prediction minus outcome.
        slope, intercept: of the line through (prediction, outcome) by least squares; a calibrated
            prediction has 1 and 0. The slope is 0 if all predictions are alike.
        correlation: Pearson's, 0 if either never varies.
        error: mean distance of a bin's prediction from its outcome, each bin weighted by its steps.
    """

    bins: tuple[ReliabilityBin, ...]
    bias: float
    slope: float
    intercept: float
    correlation: float
    error: float


def calibrate(
    predicted: ArrayLike,
    outcome: ArrayLike,
    *,
    bins: int = 10,
) -> Calibration:
    """Deciles of predictions against the mean outcome of each.

    A reliability table (Guo et al., 2017), for values in place of probabilities.

    Args:
        predicted: (N,) predicted values.
        outcome: (N,) what followed the same steps, such as Monte-Carlo returns.
        bins: how many groups; fewer if there are fewer steps.

    Raises:
        ValueError: no steps, or other numbers of the two.
    """
    x = np.asarray(predicted, np.float64)
    y = np.asarray(outcome, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(
            f"predictions {x.shape} and outcomes {y.shape}; expected as many of both, at least one"
        )
    # bins of equal counts, not of equal width: most values may lie in a small part of their range
    by_prediction = np.argsort(x, kind="stable")
    groups = np.array_split(by_prediction, min(bins, len(x)))
    table = []
    for rows in groups:
        predicted_mean, outcome_mean = float(x[rows].mean()), float(y[rows].mean())
        table.append(ReliabilityBin(len(rows), predicted_mean, outcome_mean))
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    # of equal predictions no line is the best one
    slope = covariance / x.var() if x.var() > 1e-12 else 0.0
    return Calibration(
        bins=tuple(table),
        bias=float((x - y).mean()),
        slope=float(slope),
        intercept=float(y.mean() - slope * x.mean()),
        correlation=_correlation(x, y),
        error=_calibration_error(table, len(x)),
    )


def _calibration_error(table: Sequence[ReliabilityBin], steps: int) -> float:
    """Mean distance of a bin's prediction from its outcome, weighted by the bin's steps."""
    return sum(b.count * abs(b.predicted - b.outcome) for b in table) / steps


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's: the correlation of ranks, equal values sharing their mean rank.

    None if it means nothing: fewer than three pairs, or one side is all alike. Raises ValueError if
    the lengths differ.
    """
    x = np.asarray(a, np.float64)
    y = np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"{x.shape} and {y.shape}: expected as many numbers of both")
    # two pairs always correlate by 1 or -1
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return _correlation(_ranks(x), _ranks(y))


def bootstrap_interval(
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` (N,), one for each episode (Efron, 1979)."""
    x = np.asarray(values, np.float64)
    shares = np.full(len(x), 1 / len(x))
    # how often each episode is drawn says all that a mean needs: no resampled rows are built
    counts = np.random.default_rng(seed).multinomial(len(x), shares, size=resamples)
    means = counts @ x / len(x)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, (1 + confidence) / 2])
    return float(low), float(high)


def _correlation(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> float:
    spread = float(x.std() * y.std())
    if spread <= 1e-12:
        return 0.0
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return float(covariance / spread)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # equal values share the mean of their ranks, the last of which is the cumulated count
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(mean_rank[inverse])


__all__ = ["Calibration", "ReliabilityBin", "bootstrap_interval", "calibrate", "rank_correlation"]
