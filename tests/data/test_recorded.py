"""What a dataset does not say of its steps is unknown, not 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_lerobot import vector, write_v2
from typer.testing import CliRunner

from vla.cli import app
from vla.data import DataError, EpisodeDataset, RewardConfig, Windows, check_rewards
from vla.data.tools.conversion import convert
from vla.data.tools.filtering import Filter, filter_dataset
from vla.data.tools.labels import label
from vla.data.tools.merging import merge
from vla.data.tools.relabelling import relabel_by_instruction

runner = CliRunner()


FEATURES = {"observation.state": vector(2), "action": vector(2)}


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """A dataset that records rewards alone."""
    return write_v2(tmp_path / "d", {**FEATURES, "next.reward": vector(1)})


@pytest.fixture
def mute(tmp_path: Path) -> Path:
    """A dataset that records neither rewards nor success nor ends."""
    return write_v2(tmp_path / "mute", FEATURES)


def test_tables_say_not_recorded(silent: Path, mute: Path) -> None:
    (row,) = EpisodeDataset(silent).info()["tasks"]
    assert row["success_rate"] is None
    assert row["mean_return"] == pytest.approx(EpisodeDataset(silent).episodes["return"].mean())
    (row,) = EpisodeDataset(mute).info()["tasks"]
    assert (row["success_rate"], row["mean_return"]) == (None, None)
    assert "not recorded" in runner.invoke(app, ["data", "info", str(silent)]).stdout
    stats = runner.invoke(app, ["data", "stats", str(silent)])
    assert "success not recorded" in stats.stdout
    assert "% solved" not in stats.stdout
    found = json.loads(runner.invoke(app, ["data", "stats", str(mute), "--json"]).stdout)
    assert (found["returns"], found["rewards"], found["success_rate"]) == (None, None, None)
    assert runner.invoke(app, ["data", "stats", str(mute)]).exit_code == 0
    solved = runner.invoke(app, ["data", "stats", str(silent), "success=rewards"])
    assert "100% solved" in solved.stdout


def test_the_page_says_so(mute: Path, tmp_path: Path) -> None:
    page = tmp_path / "view.html"
    assert runner.invoke(app, ["data", "view", str(mute), "--out", str(page)]).exit_code == 0
    text = page.read_text()
    assert "Success is not recorded. Rewards are not recorded." in text
    assert "All rewards are zero" not in text


def test_a_choice_by_success_is_refused_with_what_to_type(silent: Path, tmp_path: Path) -> None:
    arguments = ["data", "filter", str(silent), str(tmp_path / "out"), "--success"]
    refused = runner.invoke(app, arguments)
    assert refused.exit_code == 2
    assert "take the reward for it (`success=rewards`)" in refused.stderr
    assert "`vla data label`" in refused.stderr
    run = runner.invoke(app, [*arguments, "success=rewards"])
    assert run.exit_code == 0, run.stderr
    with pytest.raises(DataError, match="hindsight by instruction needs success, but success is"):
        relabel_by_instruction(silent, tmp_path / "other")


def test_a_choice_by_returns_needs_rewards(mute: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a choice by returns needs rewards, .*`reward=KEY`"):
        filter_dataset(mute, tmp_path / "out", Filter(min_return=0.5))


def test_a_copy_says_no_more_than_its_source(silent: Path, tmp_path: Path) -> None:
    convert(silent, tmp_path / "copy")
    assert EpisodeDataset(tmp_path / "copy").recorded == {"rewards"}
    # and the copy of the copy, by which the format is the native one
    filter_dataset(tmp_path / "copy", tmp_path / "again", Filter(episodes="0:2"))
    assert EpisodeDataset(tmp_path / "again").recorded == {"rewards"}
    labels = tmp_path / "labels.csv"
    labels.write_text("episode_index,success\n0,1\n1,0\n2,1\n")
    label(tmp_path / "copy", tmp_path / "labelled", labels)
    assert "success" in EpisodeDataset(tmp_path / "labelled").recorded
    labels.write_text("episode_index,success\n0,1\n")
    label(tmp_path / "copy", tmp_path / "partly", labels)
    assert "success" not in EpisodeDataset(tmp_path / "partly").recorded


def test_what_only_one_source_records_is_noted(silent: Path, tmp_path: Path) -> None:
    convert(silent, tmp_path / "a")
    labels = tmp_path / "labels.csv"
    labels.write_text("episode_index,success\n0,1\n1,0\n2,1\n")
    label(tmp_path / "a", tmp_path / "b", labels)
    notes = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out").notes
    assert "success is not recorded in a: nothing there is solved" in notes


def test_rewards_of_success_need_success(silent: Path) -> None:
    dataset = EpisodeDataset(silent, keys_at="data.keys.")
    windows = Windows(dataset, history=1, chunk=1, rewards=RewardConfig(kind="success"))
    with pytest.raises(DataError, match=r"kind: success needs success, .*`data.keys.success=rew"):
        check_rewards(windows)
