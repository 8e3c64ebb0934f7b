"""Rewards worked out by hand, and data that cannot teach."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vla.data import (
    DataError,
    DatasetWriter,
    EpisodeDataset,
    RewardConfig,
    Windows,
    check_rewards,
    returns_to_go,
)
from vla.data.rewards import shape_rewards

REWARDS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
SOLVED = np.array([False, True, False, False, False])
ENDS = np.array([False, False, True, False, False])
LENGTHS = [3, 2]


def shaped(**values):
    rewards, terminals = shape_rewards(REWARDS, SOLVED, ENDS, LENGTHS, RewardConfig(**values))
    assert rewards.dtype == np.float32
    return rewards.tolist(), terminals.tolist()


def test_kinds_by_hand():
    assert shaped() == (REWARDS.tolist(), ENDS.tolist())
    assert shaped(kind="success") == ([0, 1, 0, 0, 0], [False, True, True, False, False])
    assert shaped(kind="step_cost") == ([-1, 0, -1, -1, -1], [False, True, True, False, False])


def test_normalise_then_scale_then_shift():
    # returns 7 and 24; a terminal of `success` cuts the first to 1
    np.testing.assert_allclose(
        shaped(normalise="return_range", scale=34, shift=-1)[0], REWARDS * 2 - 1
    )
    np.testing.assert_allclose(
        shaped(kind="success", normalise="return_range", scale=10)[0], [0, 10, 0, 0, 0]
    )
    np.testing.assert_allclose(np.std(shaped(normalise="deviation")[0]), 1, rtol=1e-6)


def test_dividing_by_nothing_is_explained():
    for normalise in ("return_range", "deviation"):
        with pytest.raises(DataError, match=rf"data.rewards.normalise: {normalise}.*which is 0"):
            shape_rewards(
                np.ones(4),
                np.zeros(4, bool),
                np.zeros(4, bool),
                [2, 2],
                RewardConfig(normalise=normalise),
            )
    for scale in (0, float("nan")):
        with pytest.raises(ValidationError):
            RewardConfig(scale=scale)


def test_returns_stop_at_terminals_inside_an_episode():
    found = returns_to_go(REWARDS, LENGTHS, discount=0.5, terminals_N=SOLVED)
    np.testing.assert_array_equal(found, [2, 2, 4, 16, 16])
    # a terminal that comes last has no final value
    found = returns_to_go(
        REWARDS, LENGTHS, terminals_N=ENDS, final_values_E=np.array([100.0, 100.0])
    )
    np.testing.assert_array_equal(found, [7, 6, 4, 124, 116])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 1000))
def test_a_terminal_parts_an_episode_as_its_end_does(lengths, seed):
    rng = np.random.default_rng(seed)
    rewards, terminals = rng.normal(size=sum(lengths)), rng.random(sum(lengths)) < 0.3
    cuts = terminals.copy()
    cuts[np.cumsum(lengths) - 1] = True
    pieces = np.diff(np.append(-1, np.flatnonzero(cuts)))
    np.testing.assert_allclose(
        returns_to_go(rewards, lengths, discount=0.9, terminals_N=terminals),
        returns_to_go(rewards, pieces, discount=0.9),
    )


# --- in windows -----------------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path, spec, episode):
    """opened([(rewards, solved, terminated), ...], ...) -> windows of a dataset of these
    episodes."""

    def make(episodes, rewards: RewardConfig | None = None, chosen=None, discount=1.0) -> Windows:
        root = tmp_path / f"dataset{len(list(tmp_path.iterdir()))}"
        with DatasetWriter(root, spec) as writer:
            writer.add_episodes(
                [
                    dataclasses.replace(
                        episode(0, len(r)),
                        rewards=np.asarray(r, np.float32),
                        success=np.asarray(s, bool),
                        terminated=terminated,
                    )
                    for r, s, terminated in episodes
                ]
            )
        return Windows(
            EpisodeDataset(root),
            history=1,
            chunk=1,
            episodes=chosen,
            rewards=rewards,
            discount=discount,
        )

    return make


WON, LOST = ([0.0, 0.0, 3.0], [0, 1, 1], True), ([0.0, 5.0], [0, 0], False)


def test_windows_hold_shaped_rewards_terminals_and_returns(opened):
    batch = opened([WON, LOST], RewardConfig(kind="success"), discount=0.5).batch(np.arange(5))
    assert batch.rewards[:, 0].tolist() == [0, 1, 1, 0, 0]
    assert batch.terminals[:, 0].tolist() == [False, True, True, False, False]
    assert batch.returns_to_go[:, 0].tolist() == [0.5, 1, 1, 0, 0]
    recorded = opened([WON, LOST])
    assert recorded.rewards.tolist() == [0, 0, 3, 0, 5]
    assert recorded.terminals.tolist() == [False, False, True, False, False]


def test_held_out_episodes_are_normalised_alike(opened):
    config = RewardConfig(normalise="return_range")
    np.testing.assert_allclose(opened([WON, LOST], config, chosen=[1]).rewards, [0, 2.5])


def test_good_data_pass(opened):
    check_rewards(opened([WON, LOST]))
    check_rewards(opened([WON, LOST], RewardConfig(kind="success")), needs="unit")
    check_rewards(
        opened([([1, 1], [0, 0], True), ([1, 1, 1], [0, 0, 0], False)])
    )  # reward for staying alive


@pytest.mark.parametrize(
    ("episodes", "config", "message"),
    [
        ([([0, 0], [0, 0], False)] * 2, {}, r"all 4 rewards are 0.*no episode is marked as solved"),
        (
            [([0, 0], [0, 1], True)] * 2,
            {},
            r"all 4 rewards are 0.*data.rewards.kind: success makes",
        ),
        ([LOST, LOST], {"kind": "success"}, r"kind: success all 4 rewards are 0"),
        ([([1, 1], [0, 0], False)] * 2, {}, r"all 4 rewards are 1"),
        ([WON, WON], {}, r"all 2 episodes have the return 3"),
        (
            [([0, i], [0, 0], True) for i in range(5)],
            {},
            r"5 episodes.*exactly 2 steps.*terminated=False.*trust_terminals",
        ),
    ],
)
def test_data_that_cannot_teach_are_explained(opened, episodes, config, message):
    with pytest.raises(DataError, match=message):
        check_rewards(opened(episodes, RewardConfig(**config)))


def test_what_is_no_time_limit(opened):
    falls = [([0.0] * length, [0] * length, True) for length in (1, 2, 2, 2, 2, 3)]
    check_rewards(opened([*falls, WON]))  # they end earlier than the longest
    limits = [([0.0, i], [0, 0], True) for i in range(5)]
    check_rewards(opened(limits, RewardConfig(trust_terminals=True)))
    check_rewards(opened([([0.0, i], [0, 1], True) for i in range(5)]))  # solved


def test_unit_interval(opened):
    with pytest.raises(DataError, match=r"rewards lie in \[0, 5\].*kind: success"):
        check_rewards(opened([WON, LOST]), needs="unit")
    with pytest.raises(DataError, match=r"returns lie in \[1, 2\]"):
        check_rewards(opened([([1, 1], [0, 0], False), ([0, 1], [0, 0], False)]), needs="unit")
