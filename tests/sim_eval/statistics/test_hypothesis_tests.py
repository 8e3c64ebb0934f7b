"""The tests against hand-worked numbers, brute force and other libraries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import barnard_exact, binom

from vla.config import UserError
from vla.sim_eval.statistics import (
    StatisticsError,
    barnard,
    holm,
    mcnemar_exact,
    minimum_pairs,
    smallest_significant,
)

COUNTS = st.integers(0, 60)
PROBABILITIES = st.lists(st.floats(0, 1), max_size=8)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (6, 0, 2 / 64),
        (5, 0, 2 / 32),
        (8, 1, 2 * (1 + 9) / 512),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
        (7, 7, 1.0),
        (1, 0, 1.0),
    ],
)
def test_mcnemar_by_hand(wins: int, losses: int, p: float) -> None:
    assert mcnemar_exact(wins, losses) == pytest.approx(p, abs=1e-12)


def test_mcnemar_equals_statsmodels() -> None:
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    for wins in range(0, 40, 3):
        for losses in range(1, 60, 4):
            reference = contingency.mcnemar([[11, wins], [losses, 5]], exact=True).pvalue
            assert mcnemar_exact(wins, losses, 16) == pytest.approx(reference, rel=1e-9)


def test_pairs_that_all_agree_are_no_evidence_but_no_pairs_are_an_error() -> None:
    assert mcnemar_exact(0, 0, ties=20) == 1.0
    with pytest.raises(StatisticsError, match="at least one pair"):
        mcnemar_exact(0, 0)
    with pytest.raises(StatisticsError, match="losses is -1"):
        mcnemar_exact(3, -1)
    assert issubclass(StatisticsError, UserError)


@given(COUNTS, st.integers(1, 60), COUNTS)
def test_mcnemar_is_symmetric_and_blind_to_ties(wins: int, losses: int, ties: int) -> None:
    assert mcnemar_exact(wins, losses) == mcnemar_exact(losses, wins, ties)


def test_barnard_by_hand() -> None:
    # 3 of 3 against 0 of 3: only this table and its mirror image are as extreme; 2 p^3 (1-p)^3 is greatest at 1/2
    assert barnard(3, 3, 0, 3) == pytest.approx(2 / 64, abs=1e-6)
    assert barnard(2, 2, 0, 2) == pytest.approx(2 / 16, abs=1e-6)
    assert barnard(0, 5, 0, 9) == 1.0
    assert barnard(5, 5, 9, 9) == 1.0


@pytest.mark.parametrize(
    ("x", "n", "y", "m"), [(7, 15, 12, 15), (1, 10, 6, 12), (18, 20, 12, 20), (9, 9, 3, 7)]
)
def test_barnard_equals_scipy_and_brute_force(x: int, n: int, y: int, m: int) -> None:
    p = barnard(x, n, y, m)
    assert p == pytest.approx(float(barnard_exact([[x, y], [n - x, m - y]]).pvalue), rel=1e-9)
    a, b = np.arange(n + 1)[:, None], np.arange(m + 1)[None, :]
    pooled = (a + b) / (n + m)
    variance = pooled * (1 - pooled) * (1 / n + 1 / m)
    statistic = np.abs(a / n - b / m) / np.sqrt(np.where(variance > 0, variance, 1))
    extreme = statistic >= statistic[x, y] - 1e-12
    levels = [
        (binom.pmf(a, n, rate) * binom.pmf(b, m, rate) * extreme).sum()
        for rate in np.linspace(0, 1, 2001)
    ]
    assert p == pytest.approx(
        max(levels), rel=2e-3
    )  # scipy looks for the maximum by a coarse search


@pytest.mark.parametrize(
    ("arguments", "message"), [((0, 0, 1, 2), "n_a is 0"), ((1, 2, 3, 2), "successes_b is 3")]
)
def test_barnard_refuses_impossible_counts(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        barnard(*arguments)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, and no value may be below the one before it
    assert holm([0.02, 0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.06, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(StatisticsError, match="expected probabilities"):
        holm([0.1, float("nan")])


@given(PROBABILITIES)
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(
        p <= q <= min(1.0, len(p_values) * p + 1e-12)
        for p, q in zip(p_values, adjusted, strict=True)
    )
    ranked = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = np.random.default_rng(0).random(20) ** 3
    assert holm(p_values.tolist()) == pytest.approx(
        multitest.multipletests(p_values, method="holm")[1].tolist()
    )


def test_too_few_pairs_for_any_result() -> None:
    assert minimum_pairs(0.05) == 6
    assert minimum_pairs(0.01) == 8
    assert minimum_pairs(2**-5) == 6
    with pytest.raises(StatisticsError, match="alpha is 5"):
        minimum_pairs(5)


@pytest.mark.parametrize("alpha", [0.05, 0.01, 2**-5])
def test_smallest_significant_is_where_the_test_turns(alpha: float) -> None:
    for n in range(80):
        wins = smallest_significant(n, alpha)
        assert (wins is None) == (n < minimum_pairs(alpha))
        if wins is not None:
            assert mcnemar_exact(wins, n - wins) <= alpha < mcnemar_exact(wins - 1, n - wins + 1)
