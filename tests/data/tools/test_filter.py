"""Which episodes stay."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.data import DataError, DatasetWriter, EpisodeDataset
from vla.data.tools.filtering import Filter, filter_dataset, filtered


@pytest.fixture
def dataset(tmp_path, spec, episode):
    """Odd episodes push the button and succeed; episode i has i + 1 steps and a return of i."""
    from dataclasses import replace

    import numpy as np

    with DatasetWriter(tmp_path / "d", spec) as writer:
        for number in range(6):
            made = episode(number, number + 1)
            rewards = np.zeros(number + 1, np.float32)
            rewards[-1] = number
            writer.add_episode(replace(made, rewards=rewards))
    return EpisodeDataset(tmp_path / "d")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"success": True}, [1, 3, 5]),
        ({"success": False}, [0, 2, 4]),
        ({"tasks": ["PUSH*"]}, [1, 3, 5]),
        ({"tasks": ["*drawer", "push the button"]}, [0, 1, 2, 3, 4, 5]),
        ({"min_return": 2.0, "max_return": 4.0}, [2, 3, 4]),
        ({"min_length": 5}, [4, 5]),
        ({"max_length": 2, "success": True}, [1]),
        ({"episodes": "0:3,5", "drop": "1"}, [0, 2, 5]),
    ],
)
def test_all_that_is_given_must_hold(dataset, chosen, expected):
    assert filtered(dataset, Filter(**chosen)) == expected


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"min_return": 9.0},
            r"no episode fits .*min_return.*3 are solved, returns go from 0 to 5, lengths from 1 to 6",
        ),
        (
            {"tasks": ["sing*"]},
            r"no instruction matches 'sing\*'; there are: open the drawer; push the button",
        ),
        ({"drop": "7"}, r"episode 7: there are episodes 0 to 5|there are episodes 0 to 5"),
    ],
)
def test_nothing_left_is_an_error_that_says_what_there_is(dataset, chosen, message):
    with pytest.raises(DataError, match=message):
        filtered(dataset, Filter(**chosen))


def test_a_filtered_dataset(dataset, tmp_path):
    made = filter_dataset(dataset.root, tmp_path / "out", Filter(success=True))
    new = EpisodeDataset(made.root)
    assert new.instructions == ["push the button"]
    assert [new.episode(i).info["source_episode"] for i in range(3)] == [1, 3, 5]
    assert new.episode(2).images == dataset.episode(5).images
    assert new.spec == dataset.spec
    with pytest.raises(DataError, match="success was True, is False"):
        filter_dataset(dataset.root, tmp_path / "out", Filter(success=False))


def test_command_line(dataset, tmp_path):
    runner = CliRunner()
    result = runner.invoke(
        app,
        [
            "data",
            "filter",
            str(dataset.root),
            str(tmp_path / "a"),
            "--failure",
            "--task",
            "open*",
            "--min-length",
            "3",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "2 episodes, 8 frames" in result.output
    result = runner.invoke(
        app, ["data", "delete", str(dataset.root), str(tmp_path / "b"), "--episodes", "0:4"]
    )
    assert "2 episodes, 11 frames" in result.output
    result = runner.invoke(
        app, ["data", "filter", str(dataset.root), str(tmp_path / "c"), "--min-return", "9"]
    )
    assert result.exit_code == 2
    assert "no episode fits" in result.output
