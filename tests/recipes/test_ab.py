"""The sequential comparison end to end: it stops when it may, and leaves two evaluations like any others."""

from __future__ import annotations

import json
from pathlib import Path

import point_env  # noqa: F401 - registers the env that is played
import pytest

from vla.config import UserError, load_config
from vla.recipes.ab import STOPPED_BY, blocks, compare_policies_sequentially, compare_sequentially
from vla.sim_eval import EvalConfig, Results, evaluate
from vla.sim_eval.comparison.comparison import compare


def config(out: Path, **values) -> EvalConfig:
    env = {"type": "test_point", "image_size": 16}
    return EvalConfig(**{"env": env, "workers": 0, "videos_per_task": 0, "out": str(out), **values})


def test_blocks_grow_and_end_at_the_limit() -> None:
    assert [len(b) for b in blocks(60, 4)] == [4, 4, 4, 4, 8, 12, 16, 8]
    assert [list(b) for b in blocks(5, 3)] == [[0, 1, 2], [3, 4]]
    assert list(blocks(2, 10)) == [range(2)]


def test_it_stops_as_soon_as_the_difference_is_clear(tmp_path: Path) -> None:
    found = compare_policies_sequentially(
        "random", "expert", config(tmp_path, episodes_per_task=60)
    )
    assert found.decided
    assert found.episodes_per_task <= 8, "of two tasks"
    [pair] = found.comparison.pairs
    assert (pair.a, pair.b, pair.test) == ("expert", "random", "anytime-valid")
    assert (pair.wins, pair.losses) == (2 * found.episodes_per_task, 0)
    assert pair.p_value <= 0.05
    assert pair.verdict(0.05) == "expert is better"
    assert (
        f"played {found.episodes_per_task} of at most 60 episodes per task"
        in found.comparison.notes[0]
    )
    assert (
        json.loads((tmp_path / "compare.json").read_text())["pairs"][0]["test"] == "anytime-valid"
    )
    assert "an anytime-valid test" in (tmp_path / "report.html").read_text()


def test_the_runs_are_evaluations_like_any_others(tmp_path: Path) -> None:
    found = compare_sequentially(
        "expert",
        "random",
        config(tmp_path / "ab", episodes_per_task=6),
        policies=("expert", "random"),
        batch=2,
        progress=False,
    )
    saved = Results.load(tmp_path / "ab" / "a")
    assert saved.episodes == found.a.episodes
    assert saved.stopped_by == STOPPED_BY
    repeat = load_config(
        EvalConfig, tmp_path / "ab" / "a" / "eval.yaml", [f"out={tmp_path / 'again'}"]
    )
    assert repeat.episodes_per_task == found.episodes_per_task
    assert evaluate("expert", repeat, progress=False).episodes == saved.episodes
    [note] = compare([tmp_path / "ab" / "a", tmp_path / "ab" / "b"]).notes
    assert "p-values of a test with a fixed number of episodes are too small" in note


def test_equal_policies_play_to_the_limit(tmp_path: Path) -> None:
    found = compare_sequentially(
        "random",
        "random",
        config(tmp_path, episodes_per_task=3),
        policies=("x/one", "x/two"),
        batch=1,
        progress=False,
    )
    assert not found.decided
    assert found.episodes_per_task == found.limit == 3
    [pair] = found.comparison.pairs
    assert pair.p_value == 1
    assert pair.verdict(0.05) == "no difference shown"
    assert set(found.comparison.runs) == {"x/one", "x/two"}


def test_wrong_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="both policies are 'expert'"):
        compare_policies_sequentially("expert", "expert", config(tmp_path))
    for values in ({"alpha": 1.0}, {"batch": -1}, {"max_episodes_per_task": 0}):
        with pytest.raises(UserError, match="expected alpha between 0 and 1"):
            compare_sequentially("expert", "random", config(tmp_path), **values)
    assert not list(tmp_path.iterdir())
