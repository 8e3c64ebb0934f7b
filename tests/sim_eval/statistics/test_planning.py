"""Power and sample sizes against enumeration, simulation, published numbers and the tests themselves."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from vla.sim_eval.statistics import (
    SequentialComparison,
    StatisticsError,
    barnard,
    episodes_needed,
    half_width,
    mcnemar_exact,
    pair_probabilities,
    plan,
    power_of,
    sequential_plan,
)
from vla.sim_eval.statistics.power import _barnard_rejects, _pooled_power


def test_pair_probabilities() -> None:
    assert pair_probabilities(0.5, 0.5, 1.0) == pytest.approx((0, 0))
    assert pair_probabilities(0.6, 0.75) == pytest.approx((0.6 * 0.25, 0.75 * 0.4))
    win, loss = pair_probabilities(0.6, 0.75, 0.5)
    assert loss - win == pytest.approx(0.15)
    both = 0.6 - win
    assert (both - 0.45) / math.sqrt(0.6 * 0.4 * 0.75 * 0.25) == pytest.approx(0.5)
    with pytest.raises(StatisticsError, match=r"from -1.00 to 0.11"):
        pair_probabilities(0.1, 0.9, 0.5)
    with pytest.raises(StatisticsError, match=r"from 0.00 to 0.00"):
        pair_probabilities(0, 1, 0.5)


def test_paired_power_is_the_probability_of_significant_tables() -> None:
    n, (win, loss) = 14, pair_probabilities(0.2, 0.8, 0.1)
    expected = 0.0
    for w, v in itertools.product(range(n + 1), repeat=2):
        if w + v <= n and mcnemar_exact(w, v, n) <= 0.05:
            ways = math.comb(n, w) * math.comb(n - w, v)
            expected += ways * win**w * loss**v * (1 - win - loss) ** (n - w - v)
    assert power_of(n, 0.2, 0.8, paired=True, correlation=0.1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [3, 8])
def test_unpaired_power_rejects_what_barnard_rejects(n: int) -> None:
    expected = np.array([[barnard(a, n, b, n) <= 0.05 for b in range(n + 1)] for a in range(n + 1)])
    np.testing.assert_array_equal(_barnard_rejects(n, 0.05), expected)
    counts = np.arange(n + 1)
    power = binom.pmf(counts, n, 0.9) @ expected @ binom.pmf(counts, n, 0.2)
    assert power_of(n, 0.9, 0.2, paired=False) == pytest.approx(power)


@pytest.mark.parametrize(("n", "rate"), [(20, 0.05), (20, 0.5), (100, 0.02), (100, 0.3)])
def test_unpaired_level_is_kept(n: int, rate: float) -> None:
    assert power_of(n, rate, rate, paired=False) <= 0.05 + 1e-6


def test_approximation_of_many_episodes_joins_the_exact_power() -> None:
    for a, b in ((0.5, 0.6), (0.9, 0.95), (0.3, 0.4)):
        assert power_of(400, a, b, paired=False) == pytest.approx(
            _pooled_power(400, a, b, 0.05), abs=0.01
        )


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("rates", [(0.6, 0.75), (0.95, 0.7), (0.1, 0.9)])
def test_episodes_needed_reach_the_power_and_one_fewer_does_not(
    rates: tuple[float, float], paired: bool
) -> None:
    n = episodes_needed(*rates, paired=paired)
    assert power_of(n, *rates, paired=paired) >= 0.8 > power_of(n - 1, *rates, paired=paired)
    assert episodes_needed(rates[1], rates[0], paired=paired) == n
    assert episodes_needed(*rates, paired=paired, power=0.95) > n
    assert episodes_needed(*rates, paired=paired, alpha=0.01) > n


def test_episodes_needed_near_the_textbook() -> None:
    # pooled normal formula for 0.6 against 0.75: (1.96 sqrt(2 * .675 * .325) + .8416 sqrt(.24 + .1875))^2 / .15^2 = 152.0
    assert episodes_needed(0.6, 0.75, paired=False) == pytest.approx(152, abs=5)
    # always 0 against always 1: significant as soon as the test can be
    assert episodes_needed(0, 1, paired=True) == 6
    assert episodes_needed(0, 1, paired=False) == 3


def test_correlation_saves_episodes() -> None:
    needed = [
        episodes_needed(0.6, 0.75, paired=True, correlation=rho) for rho in (-0.3, 0, 0.3, 0.6)
    ]
    assert needed == sorted(needed, reverse=True)


@pytest.mark.parametrize("informed", [True, False])
def test_sequential_plan_equals_simulated_comparisons(informed: bool) -> None:
    found = sequential_plan(0.3, 0.8, correlation=0.2, informed=informed)
    win, loss = pair_probabilities(0.3, 0.8, 0.2)
    random = np.random.default_rng(0)
    played, decided = [], 0
    for _ in range(600):
        comparison = SequentialComparison(share=found.share)
        while comparison.pairs < found.limit and not comparison.decided(0.05):
            u = random.random()
            comparison.update(u < win, win <= u < win + loss)
        played.append(comparison.pairs)
        decided += comparison.decided(0.05)
    assert decided / 600 >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / 600)
    assert np.mean(played) == pytest.approx(found.expected, abs=3 * np.std(played) / math.sqrt(600))


def test_sequential_plan_of_certain_outcomes_by_hand() -> None:
    """The default bet on wins alone: 2^n B(2 + n, 2) / B(2, 2) = 6 * 2^n / ((n + 2) (n + 3)) first exceeds 20 at n = 9."""
    found = sequential_plan(1, 0, informed=False)
    assert (found.limit, found.expected) == (9, pytest.approx(9))


def test_half_width() -> None:
    assert half_width(0.5, 10) == pytest.approx(0.2634, abs=6e-5)
    assert half_width(0.5, 1000) < half_width(0.5, 100)
    with pytest.raises(StatisticsError, match=r"rate is 1.2"):
        half_width(1.2, 10)


def test_plan_has_a_row_for_each_way() -> None:
    found = plan(0.6, 0.75, tasks=5)
    assert [test.correlation for test in found.tests] == [0.0, 0.25, 0.5, None]
    assert all(test.episodes % 5 == 0 for test in found.tests)
    assert [test.correlation for test in plan(0.1, 0.9).tests] == [0.0, None]
    assert [test.correlation for test in plan(0.6, 0.75, paired=True, correlation=0.4).tests] == [
        0.4
    ]
    assert [test.correlation for test in plan(0.6, 0.75, paired=False).tests] == [None]
    for test in found.tests:
        assert test.half_width == max(half_width(rate, test.episodes) for rate in (0.6, 0.75))
        assert (test.sequential is None) == (test.correlation is None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate_a": 0.6, "rate_b": 0.6}, "tells equal policies apart"),
        ({"rate_a": 60, "rate_b": 75}, "rate is 60: expected a success rate, 0 to 1"),
        ({"rate_a": float("nan"), "rate_b": 0.5}, "rate is nan"),
        ({"rate_a": 0.6, "rate_b": 0.601}, "20000 is the most"),
        ({"rate_a": 0.6, "rate_b": 0.7, "power": 80}, "power is 80"),
        ({"rate_a": 0.6, "rate_b": 0.7, "alpha": 0}, "alpha is 0"),
        ({"rate_a": 0.6, "rate_b": 0.7, "tasks": 0}, "tasks is 0"),
        (
            {"rate_a": 0.6, "rate_b": 0.7, "paired": False, "correlation": 0.5},
            "an unpaired test has none",
        ),
        ({"rate_a": 0.6, "rate_b": 0.7, "correlation": 2}, "can have one from"),
    ],
)
def test_bad_plans(arguments: dict, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        plan(**arguments)


def test_no_episodes_have_no_power() -> None:
    with pytest.raises(StatisticsError, match="n is 0"):
        power_of(0, 0.5, 0.6, paired=True)
    assert power_of(5, 0.0, 1.0, paired=True) == 0.0  # five pairs cannot be significant
