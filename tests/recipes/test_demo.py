"""The demo end to end, made small: real experts, real training, real rollouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from vla.config import ConfigError, load_config
from vla.models import load_policy
from vla.recipes.demo import DemoConfig, against_controls, demo
from vla.sim_eval.comparison.comparison import compare
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.rollouts.jobs import EpisodeRecord

SMALL = [
    "collect.env.tasks=[reach]",
    "collect.env.image_size=32",
    "collect.episodes_per_task=6",
    "collect.behaviours.detours=null",
    "collect.only_successes=false",
    "collect.noise.random_shares=[0.0, 1.0]",
    "collect.workers=1",
    "train.steps=3",
    "train.batch_size=8",
    "finetune.steps=3",
    "finetune.batch_size=8",
    'controls={"no-values": {"type": "bc"}, "filter": {"type": "filtered_bc"}}',
    "eval.env.tasks=[reach]",
    "eval.env.image_size=32",
    "eval.env.horizon=12",
    "eval.episodes_per_task=1",
    "eval.workers=1",
    "eval.videos_per_task=1",
]


def test_values_are_of_what_is_executed() -> None:
    config = load_config(DemoConfig, {})
    assert config.finetune.objective.critic.executed == config.eval.replan_every == 2


def test_demo_leaves_a_policy_results_and_a_report(tmp_path: Path) -> None:
    out = demo(load_config(DemoConfig, {}, [f"out={tmp_path / 'demo'}", *SMALL]))
    results = json.loads((out / "results.json").read_text())
    assert results["policy"] == "rt1-iql"
    assert results["overall"]["episodes"] == 1
    assert {p.name for p in out.iterdir()} >= {
        *(
            "dataset",
            "train",
            "finetune",
            "no-values",
            "filter",
            "eval",
            "report.html",
            "compare.json",
            "timings.json",
        )
    }
    report = (out / "report.html").read_text()
    trained = {"rt1-iql", "rt1-bc", "no-values", "filter"}
    assert all(name in report for name in (*trained, "expert", "random"))
    pairs = json.loads((out / "compare.json").read_text())["pairs"]
    assert {pair[side] for pair in pairs for side in "ab"} == trained
    assert len(pairs) == 6
    policy = load_policy(out / "finetune" / "policy")
    assert policy.card["results"]["rt1-iql"]["episodes"] == 1
    assert "expert" in (out / "finetune" / "policy" / "README.md").read_text()


def outcomes_of(name: str, solved: int) -> Results:
    """Of 60 starts the first `solved`."""
    episodes = [
        EpisodeRecord("reach", "all", e, e, "Touch it", e < solved, e < solved, 9, 0.0, "")
        for e in range(60)
    ]
    versions = {"mujoco": "3.3.0"}
    return Results(name, "toys", tuple(episodes), versions=versions, config={"policy": name})


@pytest.mark.parametrize(
    ("solved", "said"),
    [
        ({"iql": 50, "none": 10, "last": 20}, "iql is better than every control"),
        ({"iql": 50, "none": 10, "last": 52}, "iql was not shown to be better than last: here"),
        ({"iql": 30, "none": 10, "last": 55}, "last, which learns no values, is better than iql"),
    ],
)
def test_the_demo_says_plainly_whether_values_beat_the_controls(solved, said) -> None:
    comparison = compare([outcomes_of(name, count) for name, count in solved.items()])
    lines = against_controls(comparison, "iql", ["none", "last"])
    assert len(lines) == 3
    assert said in lines[-1]


def test_out_moves_everything(tmp_path: Path) -> None:
    config = load_config(DemoConfig, {}, [f"out={tmp_path}"])
    assert Path(config.collect.out) == Path(config.train.data.path) == tmp_path / "dataset"
    assert Path(config.train.out) == tmp_path / "train"
    assert Path(config.eval.out) == tmp_path


def test_a_file_overrides_the_default_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump({"train": {"steps": 7}}))
    config = load_config(DemoConfig, path)
    assert config.train.steps == 7
    assert config.train.policy.token_positions


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"train.policy.histroy: unknown key \(did you mean 'history'\?\)"
    ):
        load_config(DemoConfig, {}, ["train.policy.histroy=3"])
