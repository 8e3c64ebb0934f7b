"""Datasets of one robot as one."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.data import DataError, DatasetWriter, EpisodeDataset
from vla.data.tools.merging import merge


def written(root, spec, episodes):
    with DatasetWriter(root, spec) as writer:
        writer.add_episodes(episodes)
    return root


@pytest.fixture
def two(tmp_path, spec, episode):
    """The first has the task of even numbers, the second both, in the other order."""
    first = written(tmp_path / "first", spec, [episode(0, 2), episode(2, 3)])
    return first, written(tmp_path / "second", spec, [episode(1, 2), episode(4, 1)])


def test_episodes_follow_each_other_and_instructions_are_unified(two, tmp_path, episode):
    made = merge(two, tmp_path / "out")
    dataset = EpisodeDataset(made.root)
    assert (made.episodes, made.frames, made.notes) == (4, 8, ())
    assert dataset.instructions == [episode(0).instruction, episode(1).instruction]
    assert dataset.episodes["task_index"].tolist() == [0, 0, 1, 0]
    for index, (number, steps, source) in enumerate(
        [(0, 2, ("first", 0)), (2, 3, ("first", 1)), (1, 2, ("second", 0)), (4, 1, ("second", 1))]
    ):
        old, new = episode(number, steps), dataset.episode(index)
        np.testing.assert_array_equal(new.actions, old.actions)
        np.testing.assert_array_equal(new.frames("wrist"), old.frames("wrist"))
        assert (new.info["source"], new.info["source_episode"]) == source
    assert [source["name"] for source in dataset.metadata["made"]["sources"]] == ["first", "second"]


def test_limits_hold_those_of_all(two, tmp_path, spec, episode):
    wide = replace(spec, action_low=(-3.0, -2.0), action_high=(0.9999999, 2.0))
    third = written(
        tmp_path / "third",
        wide,
        [replace(episode(3, 1), actions=np.array([[-2.5, 0]], np.float32))],
    )
    made = merge([*two, third], tmp_path / "out")
    assert EpisodeDataset(made.root).spec.action_low == (-3.0, -2.0)
    assert EpisodeDataset(made.root).spec.action_high == (1.0, 2.0)
    assert len(made.notes) == 1
    assert "limits of action 'dx' differ" in made.notes[0]


def test_what_does_not_fit_is_listed(two, tmp_path, spec, episode):
    images = {**episode(0, 1).images, "top": np.zeros((1, 2, 2, 3), np.uint8)}
    del images["wrist"]
    other = replace(
        spec, cameras={"front": (6, 8), "top": (2, 2)}, action_names=("dy", "grip"), control_hz=5.0
    )
    third = written(tmp_path / "third", other, [replace(episode(0, 1), images=images)])
    with pytest.raises(DataError) as error:
        merge([*two, third], tmp_path / "out")
    message = str(error.value)
    for part in (
        "third: does not fit first",
        "camera 'wrist' is missing",
        "camera 'top' is not in the first",
    ):
        assert part in message
    assert "action_names are ['dy', 'grip']" in message
    assert "control_hz is 5, expected 10" in message
    assert "limits" not in message
    with pytest.raises(DataError, match="merging needs two or more"):
        merge(two[:1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_brings_another_rate_to_the_first(two, tmp_path, spec, episode):
    fast = replace(spec, control_hz=20.0)
    third = written(tmp_path / "third", fast, [episode(0, 4), episode(1, 4)])
    with pytest.raises(DataError, match="control_hz is 20, expected 10") as error:
        merge([two[0], third], tmp_path / "out")
    command = shlex.split(str(error.value).split("`")[1])
    assert CliRunner().invoke(app, command[1:]).exit_code == 0
    assert merge([two[0], Path(command[4])], tmp_path / "out").episodes == 4


def test_command_line(two, tmp_path):
    arguments = ["data", "merge", *map(str, two), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "4 episodes, 8 frames" in result.output
    result = CliRunner().invoke(app, arguments)
    assert "(4 episodes were there)" in result.output
    result = CliRunner().invoke(app, [*arguments[:3], "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "merging needs two or more" in result.output
