"""Advantages of decisions: by hand, by their limits, and by groups."""

from __future__ import annotations

import numpy as np
import pytest

from vla.training.online_rl.advantages import (
    Decisions,
    generalised_advantages,
    group_advantages,
    returns_of,
)

REWARDS = np.array([1.0, 2.0, 3.0, 4.0, 10.0, 20.0])
# episode one: chunks of two and one action and a step of the expert's; episode two: one chunk
EXECUTED = np.array([2, 0, 1, 0, 2, 0])
TERMINALS = np.array([0, 0, 0, 1, 0, 0], bool)
LENGTHS = np.array([4, 2])


@pytest.fixture
def decisions() -> Decisions:
    return Decisions.of(EXECUTED, REWARDS, TERMINALS, LENGTHS, discount=0.5)


def test_rewards_up_to_the_next_decision(decisions: Decisions) -> None:
    assert decisions.step.tolist() == [0, 2, 4]
    assert decisions.episode.tolist() == [0, 0, 1]
    assert decisions.last.tolist() == [False, True, True]
    # the expert's step belongs to the decision before it
    assert decisions.reward.tolist() == [1 + 0.5 * 2, 3 + 0.5 * 4, 10 + 0.5 * 20]
    assert decisions.discount.tolist() == [0.25, 0.25, 0.25]
    assert decisions.terminated.tolist() == [True, False]
    assert returns_of(decisions).tolist() == [2 + 0.25 * 5, 5, 20]


def test_advantages_by_hand(decisions: Decisions) -> None:
    values = np.array([1.0, 2.0, 4.0])
    found, targets = generalised_advantages(
        decisions, values, decay=0.5, bootstrap_time_limits=True
    )
    second = 5 - 2.0
    first = (2 + 0.25 * 2 - 1) + 0.25 * 0.5 * second
    assert found.tolist() == [first, second, 20 + 0.25 * 4 - 4]
    np.testing.assert_allclose(targets, found + values)
    ended, _ = generalised_advantages(decisions, values, decay=0.5, bootstrap_time_limits=False)
    assert ended[2] == 20 - 4


def test_steps_before_the_first_decision_count_for_none() -> None:
    found = Decisions.of(
        np.array([0, 1, 0]), np.ones(3), np.zeros(3, bool), np.array([3]), discount=1.0
    )
    assert found.reward.tolist() == [2.0]


def test_an_episode_without_decisions_is_passed_over() -> None:
    executed = np.array([0, 0, 1, 1])
    found = Decisions.of(
        executed, np.arange(4.0), np.zeros(4, bool), np.array([2, 2]), discount=1.0
    )
    assert found.episode.tolist() == [1, 1]
    assert found.reward.tolist() == [2.0, 3.0]


def test_groups_are_held_against_their_own_start() -> None:
    scores = np.array([1.0, 0, 0, 0, 1, 1, 0, 0])
    groups = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    found = group_advantages(scores, groups)
    own = scores[:4]
    np.testing.assert_allclose(found.advantage[:4], (own - own.mean()) / own.std())
    assert (found.advantage[4:] == 0).all()  # all solved, none solved: nothing was better
    assert found.kept == pytest.approx(1 / 3)
    alone = group_advantages(scores, groups, leave_one_out=True)
    np.testing.assert_allclose(alone.advantage[:4], [1, -1 / 3, -1 / 3, -1 / 3])
    assert alone.advantage.sum() == pytest.approx(0)
    few = group_advantages(scores, groups, least_share=0.3)
    assert not few.advantage.any()
