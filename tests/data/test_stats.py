"""Statistics of all samples, against numpy and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.data import DataError, EpisodeDataset
from vla.data.view.summary import described, summarise


def test_quantiles_are_those_of_all_frames(write):
    dataset = EpisodeDataset(write([1, 20, 3]))
    found = summarise(dataset)
    grip = dataset.columns.actions[:, 1].astype(np.float64)
    assert found["actions"]["grip"]["q10"] == pytest.approx(np.quantile(grip, 0.1))
    assert found["actions"]["grip"]["std"] == pytest.approx(grip.std())
    assert list(found["state"]) == ["x", "y", "gripper"]
    assert found["lengths"] == pytest.approx(described(np.array([1, 20, 3])))
    assert found["returns"]["max"] == pytest.approx(dataset.episodes["return"].max())
    assert described(np.arange(101))["q99"] == 99
    json.dumps(found, allow_nan=False)


def test_tasks_have_their_own_rows(write):
    found = summarise(EpisodeDataset(write([2, 4, 6, 8])), images=0)
    drawer, button = found["tasks"]
    assert (drawer["instruction"], drawer["episodes"], drawer["frames"]) == (
        "open the drawer",
        2,
        8,
    )
    assert (drawer["success_rate"], button["success_rate"], found["success_rate"]) == (0, 1, 0.5)
    assert button["mean_length"] == 6
    assert found["terminated_rate"] == 0.5
    assert found["cameras"] == {}


def test_colours_are_of_all_pixels_where_all_frames_are_taken(write):
    dataset = EpisodeDataset(write([3, 2]))
    pixels = (
        np.concatenate([dataset.episode(i).frames("front") for i in range(2)]).reshape(-1, 3) / 255
    )
    found = summarise(dataset, images=5)["cameras"]["front"]
    np.testing.assert_allclose(found["mean"], pixels.mean(0))
    np.testing.assert_allclose(found["std"], pixels.std(0))
    assert found["frames"] == 5
    assert summarise(dataset, images=2)["cameras"]["wrist"]["frames"] == 2
    with pytest.raises(DataError, match="images is -1"):
        summarise(dataset, images=-1)


def test_command_line(write):
    source = write([3, 4])
    result = CliRunner().invoke(app, ["data", "stats", str(source), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["frames"] == 7
    result = CliRunner().invoke(app, ["data", "stats", str(source), "--images", "0"])
    assert result.exit_code == 0, result.output
    assert "2 episodes, 7 frames, 50% solved" in result.output
    assert "gripper" in result.output
    result = CliRunner().invoke(app, ["data", "stats", str(source.parent / "none")])
    assert result.exit_code == 2
    assert "no such folder" in result.output
