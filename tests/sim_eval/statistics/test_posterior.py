"""P(A > B) against closed forms and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.sim_eval.statistics import (
    StatisticsError,
    paired_probability_of_improvement,
    probability_of_improvement,
)


def closed_form(a: tuple[int, int], b: tuple[int, int]) -> float:
    """P(x > y), x ~ Beta(a), y ~ Beta(b), for whole parameters: a finite sum over x's first one."""

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    terms = (
        math.exp(
            log_beta(b[0] + i, b[1] + a[1])
            - math.log(a[1] + i)
            - log_beta(1 + i, a[1])
            - log_beta(*b)
        )
        for i in range(a[0])
    )
    return math.fsum(terms)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1, 1, 0, 1), 5 / 6),  # densities 2x and 2(1-y): integral of 2x (2x - x^2)
        ((1, 1, 1, 1), 0.5),
        ((2, 2, 0, 2), 19 / 20),  # 3x^2 and 3(1-y)^2: 1 - 3 B(3, 4) = 1 - 3/60
    ],
)
def test_by_hand(counts: tuple[int, int, int, int], expected: float) -> None:
    assert probability_of_improvement(*counts) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_closed_form(data: st.DataObject) -> None:
    n_a, n_b = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 400))
    a, b = data.draw(st.integers(0, n_a)), data.draw(st.integers(0, n_b))
    expected = closed_form((1 + a, 1 + n_a - a), (1 + b, 1 + n_b - b))
    assert probability_of_improvement(a, n_a, b, n_b) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 1000), st.sampled_from([0.1, 0.5, 1.0, 3.0]))
def test_the_two_policies_share_one(a: int, b: int, prior: float) -> None:
    there = probability_of_improvement(a, 30, b, 1000, prior=(prior, prior))
    back = probability_of_improvement(b, 1000, a, 30, prior=(prior, prior))
    assert there + back == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(
    ("counts", "prior"), [((0, 30, 2, 1000), (0.1, 0.1)), ((30, 30, 28, 28), (20.0, 0.1))]
)
def test_a_pole_of_the_density_at_either_end(
    counts: tuple[int, int, int, int], prior: tuple[float, float]
) -> None:
    a, n_a, b, n_b = counts
    there, back = (
        probability_of_improvement(*counts, prior=prior),
        probability_of_improvement(b, n_b, a, n_a, prior=prior),
    )
    assert 0 < there < 1
    assert there + back == pytest.approx(1, abs=1e-8)


def test_more_successes_are_never_less_probable() -> None:
    values = [probability_of_improvement(a, 20, 8, 15) for a in range(21)]
    assert values == sorted(values)
    assert values[0] < 0.01
    assert values[-1] > 0.99


def test_paired() -> None:
    # two wins, no loss: P(share > 1/2) with Beta(3, 1) is 1 - 1/8
    assert paired_probability_of_improvement(2, 0) == pytest.approx(7 / 8)
    assert paired_probability_of_improvement(4, 4, 7) == pytest.approx(0.5)
    assert paired_probability_of_improvement(0, 0, 5) == pytest.approx(0.5)
    assert paired_probability_of_improvement(9, 3, 0) == paired_probability_of_improvement(9, 3, 88)


def test_paired_equals_draws_of_the_dirichlet() -> None:
    draws = np.random.default_rng(0).dirichlet([1 + 9, 1 + 5, 2 + 30], size=200_000)
    expected = (draws[:, 0] > draws[:, 1]).mean()
    assert paired_probability_of_improvement(9, 5, 30, prior=(1, 1, 2)) == pytest.approx(
        expected, abs=0.005
    )


def test_bad_input() -> None:
    with pytest.raises(StatisticsError, match="n_b is 0"):
        probability_of_improvement(1, 2, 0, 0)
    with pytest.raises(StatisticsError, match="prior is"):
        probability_of_improvement(1, 2, 0, 1, prior=(0, 1))
    with pytest.raises(StatisticsError, match="at least one pair"):
        paired_probability_of_improvement(0, 0)
