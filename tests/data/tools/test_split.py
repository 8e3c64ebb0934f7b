"""Parts of a dataset: exact shares of all episodes, and nearly exact ones of every task."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vla.cli import app
from vla.data import DataError, EpisodeDataset
from vla.data.tools.splitting import chosen_parts, drawn_parts, split


@settings(max_examples=60, deadline=None)
@given(
    tasks=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    shares=st.lists(st.sampled_from([0.1, 0.2, 0.25, 1 / 3]), min_size=1, max_size=3),
    seed=st.integers(0, 5),
)
def test_every_part_has_its_share_of_all_and_of_each_task(tasks, shares, seed):
    task_E = np.array(tasks)
    parts = drawn_parts(task_E, {str(i): share for i, share in enumerate(shares)}, seed, "d")
    chosen = [index for part in parts.values() for index in part]
    assert len(set(chosen)) == len(chosen)
    for part, share in zip(parts.values(), shares, strict=True):
        assert part == sorted(part)
        assert abs(len(part) - share * len(tasks)) <= 1 + 1e-9
        for task in set(tasks):
            count = int((task_E[part] == task).sum())
            assert abs(count - share * tasks.count(task)) <= 2 + 1e-9


def test_the_seed_decides():
    task_E = np.arange(40) % 2
    first = drawn_parts(task_E, {"train": 0.8, "val": 0.2}, 0, "d")
    assert first == drawn_parts(task_E, {"train": 0.8, "val": 0.2}, 0, "d")
    assert first != drawn_parts(task_E, {"train": 0.8, "val": 0.2}, 1, "d")
    assert sorted(first["train"] + first["val"]) == list(range(40))
    # a task for each episode: some of them are still held out
    assert len(drawn_parts(np.arange(10), {"train": 0.8, "val": 0.2}, 0, "d")["val"]) == 2


def test_parts_by_episodes_and_by_fractions(write, tmp_path):
    source = EpisodeDataset(write([2, 3, 1, 2, 2]))
    made = split(source.root, tmp_path / "parts", {"train": "0:2,4", "val": [3]})
    assert {name: (part.root.name, part.episodes) for name, part in made.items()} == {
        "train": ("train", 3),
        "val": ("val", 1),
    }
    train = EpisodeDataset(tmp_path / "parts" / "train")
    assert [train.episode(i).info["source_episode"] for i in range(3)] == [0, 1, 4]
    assert train.episode(2).images == source.episode(4).images
    assert train.instructions == source.instructions
    made = split(source.root, tmp_path / "fractions", {"train": 0.6, "val": 0.4}, seed=3)
    assert [part.episodes for part in made.values()] == [3, 2]
    with pytest.raises(DataError, match=r"seed was 3, is 4"):
        split(source.root, tmp_path / "fractions", {"train": 0.6, "val": 0.4}, seed=4)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": 0.9, "val": 0.2}, "sum to 1.1; expected at most 1"),
        ({"train": 0.9, "val": 0.05}, "part 'val' would have none of 4 episodes"),
        ({"train": 0.5, "val": "0:1"}, "as fractions and as episodes"),
        ({"train": "0:3", "val": "2"}, "episode 2 is in 'train' and in 'val'"),
        ({"train": "0:9"}, "part 'train': episodes '0:9': there are episodes 0 to 3"),
        ({"../out": 0.5}, "part '../out': expected a folder's name"),
        ({"train": -0.5}, "part 'train' is -0.5"),
    ],
)
def test_impossible_parts_are_explained(write, parts, message):
    with pytest.raises(DataError, match=message):
        chosen_parts(EpisodeDataset(write([1, 1, 1, 1])), parts, 0)


def test_command_line(write, tmp_path):
    source = write([1, 2, 3, 4])
    result = CliRunner().invoke(
        app, ["data", "split", str(source), str(tmp_path / "p"), "train=0.5", "val=0.5"]
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("2 episodes") == 2
    result = CliRunner().invoke(
        app, ["data", "split", str(source), str(tmp_path / "q"), "a=0:1", "b=3"]
    )
    assert result.exit_code == 0, result.output
    assert EpisodeDataset(tmp_path / "q" / "b").num_frames == 4
    result = CliRunner().invoke(app, ["data", "split", str(source), str(tmp_path / "r"), "train"])
    assert result.exit_code == 2
    assert "train: expected NAME=FRACTION" in result.output
