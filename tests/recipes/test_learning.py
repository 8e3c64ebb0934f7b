"""Really learns: from demonstrations of real tasks to success on unseen seeds, beside a random policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla.config import load_config
from vla.recipes.demo import DemoConfig, demo


@pytest.mark.slow
def test_two_tasks_are_learned_from_language_and_pictures(tmp_path: Path) -> None:
    tasks = "[door-close, window-close]"
    changes = [
        f"out={tmp_path}",
        f"collect.env.tasks={tasks}",
        f"eval.env.tasks={tasks}",
        "collect.episodes_per_task=25",
        "train.steps=700",
        "eval.episodes_per_task=10",
        "eval.videos_per_task=0",
    ]
    out = demo(load_config(DemoConfig, {}, changes))
    learned = json.loads((out / "results.json").read_text())["overall"]
    chance = json.loads((out / "random" / "results.json").read_text())["overall"]
    assert learned["successes"] >= 15, learned
    assert chance["successes"] <= 5, chance
