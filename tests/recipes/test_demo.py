"""The demo end to end, made small: real experts, real training, real rollouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from vla.config import ConfigError, load_config
from vla.models import load_policy
from vla.recipes.demo import DemoConfig, demo

SMALL = [
    "collect.env.tasks=[reach]",
    "collect.env.image_size=32",
    "collect.episodes_per_task=6",
    "collect.behaviours.mistaken=0",
    "collect.noise.random_shares=[0.0, 1.0]",
    "collect.workers=1",
    "train.steps=3",
    "train.batch_size=8",
    "finetune.steps=3",
    "finetune.batch_size=8",
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
            "rt1-bc",
            "expert",
            "random",
            "report.html",
            "compare.json",
            "timings.json",
        )
    }
    report = (out / "report.html").read_text()
    assert all(name in report for name in ("rt1-iql", "rt1-bc", "expert", "random"))
    assert {pair["a"] for pair in json.loads((out / "compare.json").read_text())["pairs"]} <= {
        "rt1-iql",
        "rt1-bc",
    }
    policy = load_policy(out / "finetune" / "policy")
    assert policy.card["results"]["rt1-iql"]["episodes"] == 1
    assert "expert" in (out / "finetune" / "policy" / "README.md").read_text()


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
