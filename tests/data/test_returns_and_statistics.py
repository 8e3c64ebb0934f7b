from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.data import DataError, returns_to_go, true_statistics


def test_returns_worked_out_by_hand():
    rewards = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    np.testing.assert_array_equal(returns_to_go(rewards, [3, 2]), [7, 6, 4, 24, 16])
    np.testing.assert_array_equal(returns_to_go(rewards, [3, 2], discount=0.5), [3, 4, 4, 16, 16])
    np.testing.assert_array_equal(returns_to_go(rewards, [3, 2], discount=0.0), rewards)


def test_truncated_episodes_may_go_on_with_a_value():
    found = returns_to_go(np.ones(4), [2, 2], discount=0.5, final_values_E=np.array([0.0, 8.0]))
    np.testing.assert_array_equal(found, [1.5, 1, 3.5, 5])


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.floats(0, 1))
def test_returns_obey_their_recursion(lengths, discount):
    rewards = np.random.default_rng(0).normal(size=sum(lengths))
    found = returns_to_go(rewards, np.array(lengths), discount=discount)
    last = np.zeros(len(rewards), bool)
    last[np.cumsum(lengths) - 1] = True
    following = np.where(last, 0.0, np.append(found[1:], 0.0))
    np.testing.assert_allclose(found, rewards + discount * following, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("lengths", "discount"), [([2], 1.0), ([3, 0], 1.0), ([3], 1.5)])
def test_wrong_returns(lengths, discount):
    with pytest.raises(ValueError, match=r"lengths sum to|discount is 1.5"):
        returns_to_go(np.ones(3), np.array(lengths), discount=discount)


def test_true_statistics():
    values = np.stack([np.arange(101.0), -np.arange(101.0)], 1)
    found = true_statistics(values, quantiles=(0.1, 0.9))
    np.testing.assert_allclose(found.low, [10, -90])
    np.testing.assert_allclose(found.high, [90, -10])
    np.testing.assert_allclose(found.mean, [50, -50])
    np.testing.assert_allclose(found.std, values.std(0))
    assert (found.min.tolist(), found.max.tolist()) == ([0, -100], [100, 0])


def test_statistics_of_nothing_or_nan():
    with pytest.raises(DataError, match="need samples"):
        true_statistics(np.zeros((0, 2)))
    with pytest.raises(DataError, match="sample 1, dimension 0 is nan"):
        true_statistics(np.array([[0.0], [np.nan]]))
