"""Intervals against published and hand-worked numbers, and against what they promise."""

import pytest
from scipy.stats import binom

from vla.sim_eval.statistics import clopper_pearson, macro_rate, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # z^2 = 3.8415; 0 of 10: high = z^2 / (10 + z^2) = 0.2775
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        # 5 of 10: 0.5 +- sqrt(0.025 + z^2/400) z / (1 + z^2/10) = 0.5 +- 0.2634
        (5, 10, 0.2366, 0.7634),
        (8, 10, 0.4902, 0.9433),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I: method 3
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (81, 263, 0.2527, 0.3676),  # Newcombe 1998, table I: method 5
        (15, 148, 0.0578, 0.1617),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_clopper_pearson(successes: int, n: int, low: float, high: float) -> None:
    assert clopper_pearson(successes, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson])
def test_intervals_mirror_and_shrink(interval) -> None:
    low, high = interval(3, 20)
    assert interval(17, 20) == pytest.approx((1 - high, 1 - low))
    assert interval(30, 200)[1] - interval(30, 200)[0] < high - low
    assert interval(3, 20, 0.5)[0] > low


@pytest.mark.parametrize("n", [10, 20, 50])
def test_coverage(n: int) -> None:
    """Clopper-Pearson covers every rate at least as often as it says; Wilson does so on average."""
    rates = [i / 20 + 0.003 for i in range(20)]

    def coverage(interval) -> list[float]:
        bounds = [interval(k, n) for k in range(n + 1)]
        return [sum(binom.pmf(k, n, p) for k, (lo, hi) in enumerate(bounds) if lo <= p <= hi) for p in rates]

    wilson, exact = coverage(wilson_interval), coverage(clopper_pearson)
    assert min(exact) >= 0.95 - 1e-9
    assert sum(wilson) / len(wilson) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "at least one episode"),
        ((5, 4), "0 to n = 4"),
        ((-1, 4), "successes is -1"),
        ((1, 4, 95), "confidence is 95"),
    ],
)
def test_impossible_counts(interval, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(*arguments)


def test_macro_rate() -> None:
    assert macro_rate([1.0, 0.5, 0.0, 0.1]) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="no rates"):
        macro_rate([])
