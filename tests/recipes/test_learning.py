"""Really learns: from demonstrations of commands to success on unseen seeds, beside a random policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla.config import load_config
from vla.recipes.demo import DemoConfig, demo


@pytest.mark.slow
def test_reaching_for_what_the_instruction_names_is_learned(tmp_path: Path) -> None:
    tasks = "[reach]"
    changes = [
        f"out={tmp_path}",
        f"collect.env.tasks={tasks}",
        f"eval.env.tasks={tasks}",
        "collect.episodes_per_task=600",
        "collect.behaviours.detours=null",
        "finetune.steps=1000",
        "train.steps=700",
        "eval.episodes_per_task=20",
        "eval.videos_per_task=0",
    ]
    out = demo(load_config(DemoConfig, {}, changes))
    learned = json.loads((out / "results.json").read_text())["overall"]
    chance = json.loads((out / "eval" / "random" / "results.json").read_text())["overall"]
    assert learned["successes"] >= 15, learned
    assert chance["successes"] <= 5, chance
