"""Intervals against published and hand-worked numbers, and against what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from vla.sim_eval.statistics import clopper_pearson, coverage, macro_rate, wilson_interval


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


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("interval", "method"), [(wilson_interval, "wilson"), (clopper_pearson, "exact")]
)
def test_scipy_says_the_same(interval, method: str, confidence: float) -> None:
    for n in (1, 2, 7, 20, 50, 263):
        for successes in range(0, n + 1, max(1, n // 10)):
            expected = binomtest(successes, n).proportion_ci(confidence, method=method)
            low, high = interval(successes, n, confidence)
            assert low == pytest.approx(expected.low, abs=1e-12)
            assert high == pytest.approx(expected.high, abs=1e-12)


def test_clopper_pearson_is_made_of_quantiles_of_beta_distributions() -> None:
    for successes, n in ((1, 2), (3, 20), (19, 20), (40, 50), (7, 263)):
        low = beta.ppf(0.025, successes, n - successes + 1)
        high = beta.ppf(0.975, successes + 1, n - successes)
        assert clopper_pearson(successes, n) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson])
def test_intervals_mirror_and_shrink(interval) -> None:
    low, high = interval(3, 20)
    assert interval(17, 20) == pytest.approx((1 - high, 1 - low))
    assert interval(30, 200)[1] - interval(30, 200)[0] < high - low
    assert interval(3, 20, 0.5)[0] > low


@pytest.mark.parametrize("n", [10, 50])
def test_what_the_intervals_cover(n: int) -> None:
    """Clopper-Pearson covers every rate at least as often as it says; Wilson does so on average."""
    rates = np.arange(1, 100) / 100
    assert coverage(clopper_pearson, n, rates).min() >= 0.95
    assert coverage(wilson_interval, n, rates).mean() == pytest.approx(0.95, abs=0.01)


def test_coverage_by_hand() -> None:
    # one episode, intervals [0, .4] and [.6, 1]: .3 is held by a failure, .8 by a success, .5 by neither
    interval = [(0.0, 0.4), (0.6, 1.0)]
    held = coverage(lambda successes, n: interval[successes], 1, [[0.3, 0.5, 0.8]])
    np.testing.assert_allclose(held, [[0.7, 0.0, 0.8]])


@given(
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.floats(0.01, 0.999),
)
def test_intervals_hold_the_rate(counts: tuple[int, int], confidence: float) -> None:
    successes, n = counts
    low, high = wilson_interval(successes, n, confidence)
    low_exact, high_exact = clopper_pearson(successes, n, 0.5 + confidence / 2)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1
    assert low_exact <= successes / n <= high_exact


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
