"""Hindsight: what becomes a success, where it ends, and which picture is its goal."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.data import (
    DataError,
    DatasetWriter,
    EpisodeDataset,
    relabel_by_goal,
    relabel_by_instruction,
)
from vla.data.tools.relabelling import GOAL_INSTRUCTION, draw_goals

DRAWER, BUTTON = (
    "open the drawer",
    "push the button",
)  # of the even (failed) and the odd (solved) episodes


@pytest.fixture
def source(tmp_path, spec, episode):
    """Episodes 0, 2 and 4 fail; 0 pushes the button at step 3, 2 does something unheard of."""
    achieved = {0: {BUTTON: 3}, 2: {"sing": 1}, 1: {BUTTON: 0}}
    with DatasetWriter(tmp_path / "source", spec) as writer:
        for number in range(5):
            made = episode(number, 6)
            info = made.info | (
                {"achieved": json.dumps(achieved[number])} if number in achieved else {}
            )
            writer.add_episode(dataclasses.replace(made, info=info))
    return EpisodeDataset(tmp_path / "source")


def test_failures_become_successes_at_what_they_achieved(source, tmp_path):
    made = relabel_by_instruction(source.root, tmp_path / "out")
    dataset = EpisodeDataset(made.root)
    assert (made.episodes, made.relabelled, len(dataset)) == (6, 1, 6)
    new, old = dataset.episode(1), source.episode(0)
    assert new.instruction == BUTTON
    assert new.success.tolist() == new.rewards.tolist() == [0, 0, 0, 1]
    assert new.terminated
    np.testing.assert_array_equal(new.actions, old.actions[:4])
    np.testing.assert_array_equal(new.frames("front"), old.frames("front")[:4])
    assert new.info["relabelled_from"] == DRAWER
    assert new.info["source_episode"] == 0
    assert "achieved" not in new.info
    kept = dataset.episode(0)
    assert kept.instruction == DRAWER
    assert not kept.rewards.any()  # sparse, like those of the new ones
    np.testing.assert_array_equal(kept.state, old.state)


def test_what_is_relabelled_can_be_chosen(source, tmp_path):
    made = relabel_by_instruction(source.root, tmp_path / "out", known_only=False, keep=False)
    dataset = EpisodeDataset(made.root)
    assert [dataset.episode(i).instruction for i in range(len(dataset))] == [BUTTON, "sing"]

    def achieved(episode):
        assert not episode.success.any()
        assert episode.images == {}
        return {BUTTON: int(np.argmax(episode.state[:, 0])), DRAWER: 0}  # its own is no news

    made = relabel_by_instruction(
        source.root, tmp_path / "own", achieved=achieved, keep=False, per_episode=2
    )
    lengths = EpisodeDataset(made.root).episodes["length"].tolist()
    assert lengths == [int(np.argmax(source.episode(i).state[:, 0])) + 1 for i in (0, 2, 4)]


def test_nothing_achieved_or_impossible_steps_are_explained(source, tmp_path):
    with pytest.raises(DataError, match=r"none of 3 failed episodes.*only_successes: false"):
        relabel_by_instruction(source.root, tmp_path / "out", achieved=lambda _: {})
    with pytest.raises(
        DataError, match=r"episode 0: 'push the button' .* after step 6; it has steps 0 to 5"
    ):
        relabel_by_instruction(source.root, tmp_path / "out", achieved=lambda _: {BUTTON: 6})
    assert not (tmp_path / "out").exists()


def test_goals_lie_later_in_the_episode_or_in_another():
    lengths = [5, 1, 40]
    episode = np.repeat([0, 1, 2], lengths)
    last = np.isin(np.arange(46), np.cumsum(lengths) - 1)
    for discount in (None, 0.5):
        goals, future = draw_goals(lengths, np.random.default_rng(0), discount=discount)
        np.testing.assert_array_equal(future, ~last)
        assert (goals[future] > np.flatnonzero(future)).all()
        np.testing.assert_array_equal(episode[goals] == episode, future)
    _, future = draw_goals(lengths, np.random.default_rng(0), probability=0.5)
    assert 0.3 < future.mean() < 0.7


def test_distances_are_even_or_geometric():
    lengths = np.full(4000, 11)
    for discount, shares in (
        (None, [0.1] * 10),
        (0.5, [0.5 ** (d + 1) for d in range(9)] + [0.5**9]),
    ):
        goals, _ = draw_goals(lengths, np.random.default_rng(0), discount=discount)
        distance = (goals - np.arange(len(goals)))[::11]
        np.testing.assert_allclose(
            np.bincount(distance, minlength=11)[1:] / 4000, shares, atol=0.03
        )
    with pytest.raises(ValueError, match="discount is 1"):
        draw_goals(lengths, np.random.default_rng(0), discount=1.0)


def test_parts_of_episodes_reach_the_picture_that_they_lead_to(source, tmp_path):
    made = relabel_by_goal(
        source.root, tmp_path / "out", per_episode=3, probability=0.7, cameras=["front"]
    )
    dataset = EpisodeDataset(made.root)
    assert list(dataset.spec.cameras) == ["front", "wrist", "goal_front"]
    assert made.episodes == made.relabelled == 15
    solved = 0
    for part in (dataset.episode(i) for i in range(15)):
        whole = source.episode(part.info["source_episode"])
        first = int((whole.state == part.state[0]).all(1).argmax())
        np.testing.assert_array_equal(part.actions, whole.actions[first : first + len(part)])
        goal = part.frames("goal_front")
        assert (goal == goal[0]).all()
        assert part.instruction == GOAL_INSTRUCTION
        assert part.success.tolist() == [False] * (len(part) - 1) + [part.terminated]
        in_episode = (whole.frames("front") == goal[0]).all((1, 2, 3))
        if part.terminated:
            assert in_episode[first + len(part)]  # what is seen after its last action
            solved += 1
        else:
            assert not in_episode.any()
            assert first + len(part) == len(whole)
    assert 0 < solved < 15
    again = relabel_by_goal(
        source.root, tmp_path / "again", per_episode=3, probability=0.7, cameras=["front"]
    )
    np.testing.assert_array_equal(EpisodeDataset(again.root).columns.state, dataset.columns.state)


def test_goals_that_cannot_be_are_explained(source, tmp_path, write):
    with pytest.raises(DataError, match=r"asked for: top, the dataset has: front, wrist"):
        relabel_by_goal(source.root, tmp_path / "out", cameras=["top"])
    with pytest.raises(DataError, match="no episode has two steps"):
        relabel_by_goal(write([1, 1]), tmp_path / "out")
    with pytest.raises(DataError, match="no other episode"):
        relabel_by_goal(write([4], "one"), tmp_path / "out", probability=0.5)


def test_command(source, tmp_path):
    for by, message in (
        ("instruction", "6 episodes, 1 of them"),
        ("goal", "5 episodes, 5 of them"),
    ):
        result = CliRunner().invoke(
            app, ["data", "relabel", str(source.root), str(tmp_path / by), "--by", by]
        )
        assert result.exit_code == 0, result.output
        assert message in result.output
    result = CliRunner().invoke(
        app, ["data", "relabel", str(source.root), str(tmp_path / "x"), "--by", "magic"]
    )
    assert result.exit_code == 2
