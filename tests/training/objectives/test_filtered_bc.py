"""Which windows filtered BC keeps, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from vla.training.objectives.filtered_bc import FilteredBCConfig, steps_to_success


def test_steps_are_counted_back_from_the_last_success_of_their_own_episode():
    # four steps, solved at the third; three steps, never; two, solved at both
    success = np.array([True, True, True, False, False, False, False, True, True])
    left = steps_to_success(success, np.array([4, 3, 2]))
    np.testing.assert_array_equal(left, [2, 1, 0, -1, -1, -1, -1, 1, 0])


def test_the_last_steps_are_kept():
    class Some:
        success = np.array([True, True, True, False, False, False, False, True, True])
        lengths = np.array([4, 3, 2])

    weights = FilteredBCConfig(keep="last", last=2).build(None).window_weights(Some())
    np.testing.assert_array_equal(weights, [0, 1, 1, 0, 0, 0, 0, 1, 1])


def test_the_fastest_solved_episodes_of_each_task_are_kept():
    class Some:
        lengths = np.array([3, 2, 1, 2, 2])
        # the first is solved at its second step; the third never is
        success = np.array([True, True, False, True, True, False, True, True, True, False])
        task_index = np.repeat([0, 0, 0, 1, 1], lengths)

    weights = FilteredBCConfig(keep="fastest", fraction=0.5).build(None).window_weights(Some())
    # of two solved in two steps the earlier; of the other task the one solved in one step
    np.testing.assert_array_equal(weights, [1, 1, 1, 0, 0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": "last", "fraction": 0.1}, "fraction: keep: last keeps no share"),
        ({"last": 3}, "last: keep: success keeps whole episodes; set keep: last"),
        ({"keep": "last", "last": 0}, "greater than or equal to 1"),
    ],
)
def test_options_without_effect_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        FilteredBCConfig(**values)
