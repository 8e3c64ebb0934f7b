"""Files of preferences, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reward_toys as toys

from vla.data import DataError, EpisodeDataset
from vla.data.tools.preference_labels import draw_segment_pairs, read_preferences


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return EpisodeDataset(toys.write(tmp_path_factory.mktemp("toy") / "data", 9))


def side(episode: int, start: int = 0, stop: int = 2) -> dict[str, int]:
    return {"episode": episode, "start": start, "stop": stop}


def line(a: Any, b: Any, prefers: Any) -> str:
    return json.dumps({"a": a, "b": b, "prefers": prefers})


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_pair_counts_once_whichever_way_round(data: EpisodeDataset, tmp_path: Path) -> None:
    path = write(
        tmp_path / "labels.jsonl",
        line(side(3), side(0), "a"),
        "",
        line(side(0), side(3), "b"),
        line(side(1), side(2), "equal"),
    )
    found = read_preferences(path, data)
    assert [(p.a.episode, p.b.episode, p.a_is_better) for p in found] == [(0, 3, 0.0), (1, 2, 0.5)]


def test_contradictions_name_the_pair_and_both_lines(data: EpisodeDataset, tmp_path: Path) -> None:
    path = write(
        tmp_path / "labels.jsonl", line(side(0), side(3), "a"), line(side(3), side(0), "a")
    )
    message = (
        r"line 2: contradicts line 1 about the same pair \(episode 0, steps 0 to 1; episode 3, "
        r"steps 0 to 1\); remove one"
    )
    with pytest.raises(DataError, match=message):
        read_preferences(path, data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: is no JSON"),
        ("[1]", "expected an object with the keys a, b and prefers"),
        (line(side(0), side(1), "c"), "prefers: is 'c'; expected a, b or equal"),
        (line(side(0), side(0), "a"), "a and b are the same"),
        (line(side(0), side(99), "a"), "there is no episode 99"),
        (line(side(0), side(1, 0, 99), "a"), r"steps 0 to 98 of episode 1, which has \d+ steps"),
        (line(side(0), side(1, 2, 2), "a"), "give 0 <= start < stop"),
        (line(side(0), {"episode": True, "start": 0, "stop": 1}, "a"), "expected a whole number"),
        ("", "holds no preferences"),
    ],
)
def test_mistakes_are_named(data: EpisodeDataset, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_preferences(write(tmp_path / "labels.jsonl", text), data)


def test_pairs_are_of_one_task_and_two_episodes() -> None:
    tasks, lengths = np.array([0, 1, 0, 1, 2]), np.array([10, 3, 8, 9, 9])
    drawn = draw_segment_pairs(tasks, lengths, pairs=50, steps=5, rng=np.random.default_rng(0))
    assert len(drawn) == 50
    for a, b in drawn:
        assert a[0] != b[0]
        assert tasks[a[0]] == tasks[b[0]] != 2
        for episode, start, stop in (a, b):
            assert stop - start == min(5, lengths[episode])
            assert 0 <= start < stop <= lengths[episode]
    nothing = draw_segment_pairs(
        np.arange(3), np.full(3, 5), pairs=4, steps=2, rng=np.random.default_rng(0)
    )
    assert nothing == []
