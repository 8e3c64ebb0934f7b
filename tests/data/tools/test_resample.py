"""Another control rate, against numbers worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset
from vla.data.tools.conversion import convert
from vla.data.tools.resampling import nearest_steps, new_length, resampled_episode, resampled_spec
from vla.types import Spec

KINDS = ["absolute", "delta", "velocity", "command"]
SPEC = Spec({"front": (2, 2)}, ("t",), ("goal", "dx", "v", "grip"), (-9.0,) * 4, (9.0,) * 4, 30.0)


def episode_of(actions, rewards=None, success=None):
    actions = np.asarray(actions, np.float32)
    L = len(actions)
    return Episode(
        images={"front": np.stack([np.full((2, 2, 3), t, np.uint8) for t in range(L)])},
        state=np.arange(L, dtype=np.float32)[:, None],
        actions=np.repeat(actions[:, None], 4, axis=1),
        rewards=np.zeros(L, np.float32) if rewards is None else np.asarray(rewards, np.float32),
        success=np.zeros(L, bool) if success is None else np.asarray(success, bool),
        terminated=True,
        instruction="go",
    )


def columns(episode):
    return episode.actions.T.tolist()


def test_half_the_rate():
    made = resampled_episode(
        episode_of([1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 1, 0, 0, 0]), Fraction(2), KINDS
    )
    goal, dx, v, grip = columns(made)
    assert goal == grip == [2, 4, 5]
    assert dx == [3, 7, 5]
    assert v == [1.5, 3.5, 5]  # the last step holds one old step only
    assert made.rewards.tolist() == [1, 5, 4]
    assert made.success.tolist() == [True, False, False]
    assert made.state[:, 0].tolist() == made.images["front"][:, 0, 0, 0].tolist() == [0, 2, 4]
    assert made.terminated


def test_two_thirds_of_the_rate():
    """Spans [0, 1.5), [1.5, 3), [3, 4) of the old steps."""
    made = resampled_episode(
        episode_of([1, 2, 4, 8], [1, 10, 100, 1000], [0, 0, 1, 0]), Fraction(3, 2), KINDS
    )
    goal, dx, v, grip = columns(made)
    assert goal == grip == [2, 4, 8]
    assert dx == [2, 5, 8]
    np.testing.assert_allclose(v, [2 / 1.5, 5 / 1.5, 8])
    assert made.rewards.tolist() == [
        1,
        110,
        1000,
    ]  # the second old step ends within the second span
    assert made.success.tolist() == [False, True, False]
    assert made.state[:, 0].tolist() == [
        0,
        1,
        3,
    ]  # of two equally near the earlier: nothing is seen before its time


def test_twice_the_rate():
    made = resampled_episode(episode_of([1, 2], [5, 7], [1, 0]), Fraction(1, 2), KINDS)
    goal, dx, v, grip = columns(made)
    assert goal == grip == v == [1, 1, 2, 2]
    assert dx == [0.5, 0.5, 1, 1]
    assert made.rewards.tolist() == [0, 5, 0, 7]
    assert made.success.tolist() == [
        False,
        True,
        True,
        False,
    ]  # what was known holds until an old step ends
    assert made.state[:, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "r", [Fraction(1), Fraction(5), Fraction(4, 3), Fraction(2, 7), Fraction(30, 1)]
)
@pytest.mark.parametrize("length", [1, 2, 13])
def test_displacements_and_returns_keep_their_sum(r, length):
    rng = np.random.default_rng(length)
    old = episode_of(rng.normal(size=length), rng.normal(size=length), rng.random(length) < 0.3)
    new = resampled_episode(old, r, KINDS)
    assert len(new) == new_length(length, r) == -(-length // r)
    np.testing.assert_allclose(new.actions[:, 1].sum(), old.actions[:, 1].sum(), atol=1e-5)
    np.testing.assert_allclose(new.rewards.sum(), old.rewards.sum(), atol=1e-5)
    assert new.success.any() == old.success.any()
    for k, t in enumerate(nearest_steps(length, r).tolist()):
        assert abs(t - min(k * r, length - 1)) <= Fraction(1, 2)


def test_limits_of_displacements_follow_the_length_of_a_step():
    new = resampled_spec(SPEC, 10.0, Fraction(3), KINDS)
    assert new.control_hz == 10
    assert new.action_high == (9, 27, 9, 9)
    assert new.action_low == (-9, -27, -9, -9)
    pushed = Spec({}, (), ("dx",), (2.0,), (3.0,), 30.0)  # an episode's last step may be short
    assert resampled_spec(pushed, 10.0, Fraction(3), ["delta"]).action_low == (0.0,)


def test_a_dataset_at_another_rate(tmp_path):
    with DatasetWriter(tmp_path / "d", SPEC) as writer:
        writer.add_episode(episode_of([9, 9, 9, -9, 1]))
    made = convert(
        tmp_path / "d", tmp_path / "out", control_hz=15, kinds={"dx": "delta", "v": "velocity"}
    )
    dataset = EpisodeDataset(made.root)
    assert dataset.spec.control_hz == 15
    assert dataset.spec.action_high == (9, 18, 9, 9)
    episode = dataset.episode(0)
    assert episode.actions[:, 1].tolist() == [18, 0, 1]
    assert episode.frames("front")[:, 0, 0, 0].tolist() == [0, 2, 4]
    assert any("limits of displacements" in note for note in made.notes)
    made = convert(tmp_path / "d", tmp_path / "plain", control_hz=15)
    assert any("dx look like displacements" in note for note in made.notes)


def test_what_cannot_be_resampled_is_said(tmp_path):
    with DatasetWriter(tmp_path / "d", SPEC) as writer:
        writer.add_episode(episode_of([1, 2]))
    for options, message in (
        (
            {"control_hz": 15, "kinds": {"dz": "delta"}},
            r"kinds.dz: no such action dimension; there are: goal, dx",
        ),
        (
            {"control_hz": 15, "kinds": {"dx": "sum"}},
            r"kinds.dx is 'sum'; expected one of: absolute, delta",
        ),
        ({"control_hz": 0}, r"control_hz is 0"),
        ({"control_hz": 1e-5}, r"no simple ratio"),
    ):
        with pytest.raises(DataError, match=message):
            convert(tmp_path / "d", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
