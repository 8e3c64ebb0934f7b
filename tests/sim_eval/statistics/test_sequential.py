"""The sequential comparison: a fair bet, checked exactly, and never more false alarms than it says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.sim_eval.statistics import (
    SequentialComparison,
    StatisticsError,
    UnpairedSequentialComparison,
    paired_log_e_value,
)


def test_e_value_by_hand() -> None:
    comparison = SequentialComparison(prior=1)
    for outcome in (True, True, True, False):
        comparison.update(outcome, not outcome)
    comparison.update(True, True)
    # B(4, 2) / B(1, 1) = 3! 1! / 5! = 1/20, times 2^4; after three wins it was B(4, 1) 2^3 = 2
    assert comparison.e_value == pytest.approx(16 / 20)
    assert comparison.p_value == pytest.approx(1 / 2)
    assert (comparison.wins, comparison.losses, comparison.ties, comparison.pairs) == (3, 1, 1, 5)


def test_e_value_of_a_named_share_by_hand() -> None:
    comparison = SequentialComparison(share=0.75)
    for _ in range(2):
        comparison.update(False, True)
    assert comparison.e_value == pytest.approx((1.5**2 + 0.5**2) / 2)  # either direction
    assert comparison.p_value == pytest.approx(1 / 1.25)


@pytest.mark.parametrize("bet", [{"prior": 0.5}, {"prior": 2.0}, {"share": 0.6}, {"share": 0.95}])
def test_the_bet_is_fair_if_the_policies_are_equal(bet: dict[str, float]) -> None:
    """From any state a win and a loss, equally likely, leave the wealth as it was in the mean."""
    wins, losses = np.meshgrid(np.arange(30), np.arange(30))
    now = np.exp(paired_log_e_value(wins, losses, **bet))
    win, loss = (np.exp(paired_log_e_value(wins + i, losses + 1 - i, **bet)) for i in (1, 0))
    np.testing.assert_allclose((win + loss) / 2, now, rtol=1e-9)
    assert paired_log_e_value(0, 0, **bet) == pytest.approx(0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_symmetric_monotone_and_blind_to_ties(pairs: list[tuple[bool, bool]]) -> None:
    there, back, differing = SequentialComparison(), SequentialComparison(), SequentialComparison()
    last = 1.0
    for a, b in pairs:
        there.update(a, b)
        back.update(b, a)
        if a != b:
            differing.update(a, b)
        assert there.p_value <= last
        last = there.p_value
    assert there.p_value == pytest.approx(back.p_value) == pytest.approx(differing.p_value)


def test_it_decides_and_stays_decided() -> None:
    comparison = SequentialComparison()
    assert not comparison.decided(0.05)
    for _ in range(12):
        comparison.update(True, False)
    assert comparison.decided(0.05)
    assert comparison.p_value == pytest.approx(1 / comparison.e_value)
    for _ in range(40):
        comparison.update(False, True)
    assert comparison.decided(0.05)
    assert comparison.e_value < 1e6  # the bet itself goes down and up; the lowest p is kept


def test_false_alarms_under_peeking_paired() -> None:
    random = np.random.default_rng(0)
    wins = (random.random((4000, 500)) < 0.5).cumsum(1)
    seen = np.arange(1, 501)
    highest = paired_log_e_value(wins, seen - wins).max(1)
    alarms = (highest >= math.log(20)).mean()
    assert alarms <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert alarms > 0.01  # the bound is no empty one
    # what peeking at McNemar's p-value does: |wins - losses| > 1.96 sqrt(n) sooner or later
    naive = (np.abs(2 * wins - seen) > 1.96 * np.sqrt(seen))[:, 5:].any(1).mean()
    assert naive > 0.25


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_unpaired_bet_never_gains_in_the_mean_if_rates_are_equal(rate: float) -> None:
    """Exact: from the states after random outcomes, the expected wealth after one more update is not above the wealth."""
    random = np.random.default_rng(0)
    history = random.random((25, 2)) < random.random(2)
    for stop in range(len(history)):
        expected = 0.0
        for a in (True, False):
            for b in (True, False):
                comparison = UnpairedSequentialComparison()
                for outcomes in history[:stop]:
                    comparison.update(*outcomes)
                before = comparison.e_value
                comparison.update(a, b)
                chance = (rate if a else 1 - rate) * (rate if b else 1 - rate)
                expected += chance * comparison.e_value
        assert expected <= before * (1 + 1e-12)


def test_unpaired_decides() -> None:
    comparison = UnpairedSequentialComparison()
    random = np.random.default_rng(0)
    while not comparison.decided(0.05):
        comparison.update(random.random() < 0.9, random.random() < 0.3)
    assert comparison.episodes < 60
    assert comparison.successes[0] > comparison.successes[1]


def test_bad_input() -> None:
    with pytest.raises(StatisticsError, match="prior is 0"):
        SequentialComparison(prior=0)
    with pytest.raises(StatisticsError, match="share is 1"):
        SequentialComparison(share=1)
    with pytest.raises(StatisticsError, match="prior is -1"):
        UnpairedSequentialComparison(prior=-1)
    with pytest.raises(StatisticsError, match="alpha is 0"):
        SequentialComparison().decided(0)
