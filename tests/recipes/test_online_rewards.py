"""Online runs whose rewards are learned: what is scored, what is kept, and that they resume to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import point_env  # noqa: F401 - registers its env
import pytest
import torch

from vla.config import ConfigError, validate
from vla.data import EpisodeDataset
from vla.models import load_policy
from vla.models.rewards.storage import load_reward
from vla.recipes.online import OnlineConfig, online
from vla.recipes.online import loop as loop_module
from vla.sim_eval.collection.recording import CollectConfig, collect

MLP = {
    "type": "mlp",
    "hidden": 16,
    "language": None,
    "head": {"type": "categorical"},
    "tokenizer": {"type": "bins", "num_bins": 5},
}
POINT: dict[str, Any] = {
    "env": {"type": "test_point", "image_size": 16, "horizon": 12},
    "policy": MLP,
    "objective": {"type": "ppo", "critic": {"hidden": 16}, "value_warmup": 0},
    "optim": {"lr": 1e-3},
    "rounds": 3,
    "episodes_per_round": 4,
    "epochs": 2,
    "batch_size": 16,
    "keep": "round",
    "evaluate": None,
}


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("expert") / "data"
    settings = {
        "env": POINT["env"],
        "out": str(out),
        "episodes_per_task": 2,
        "noise": {"std": 0.0},
        "workers": 1,
    }
    collect(validate(CollectConfig, settings))
    return out


def config_of(out: Path, expert: Path, **changes: Any) -> OnlineConfig:
    reward = {
        "model": {"type": "discriminator", "hidden": 16},
        "policy": MLP,
        "demonstrations": {"path": str(expert)},
        "updates": 3,
        "batch_size": 16,
    }
    settings = {**POINT, "reward": reward, "out": str(out), **changes}
    return validate(OnlineConfig, settings)


class Stop(Exception):
    pass


def test_a_run_with_learned_rewards_resumes_to_the_same_weights(
    tmp_path: Path, expert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "keep": 60,
        "objective": {"type": "iql", "critic": {"hidden": 16}},
    }
    whole = online(config_of(tmp_path / "whole", expert, **changes))
    assert {"reward/loss", "reward/reward", "reward/penalty"} <= whole.metrics.keys()
    real = loop_module._Run._learn
    calls = 0

    def stopping(self: Any, number: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:  # the reward model has learned from this round already
            raise Stop
        return real(self, number)

    monkeypatch.setattr(loop_module._Run, "_learn", stopping)
    cut = config_of(tmp_path / "cut", expert, **changes)
    with pytest.raises(Stop):
        online(cut)
    monkeypatch.setattr(loop_module._Run, "_learn", real)
    online(cut, resume=True)
    for load in (lambda run: load_policy(run / "policy"), load_reward):
        one, other = (load(tmp_path / run).state_dict() for run in ("whole", "cut"))
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name


def test_episodes_keep_what_the_env_said(tmp_path: Path, expert: Path) -> None:
    online(config_of(tmp_path, expert, rounds=1))
    dataset = EpisodeDataset(tmp_path / "episodes")
    columns = dataset.columns
    assert (columns.rewards < 0).all()  # log D
    np.testing.assert_array_equal(columns.extras["env_success"], columns.success)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    # what is said of the policy is by the env
    total = float(columns.extras["env_reward"].sum()) / len(dataset)
    assert json.loads(lines[0])["played/return"] == pytest.approx(total, rel=1e-5)


def test_a_reward_model_of_another_robot_is_refused(tmp_path: Path, expert: Path) -> None:
    online(config_of(tmp_path / "run", expert, rounds=1))
    reward = {"path": str(tmp_path / "run")}
    other = {**POINT["env"], "type": "stitch"}
    other.pop("image_size")
    with pytest.raises(ConfigError, match=r"reward\.path: "):
        online(
            config_of(
                tmp_path / "other",
                expert,
                env=other,
                policy={**MLP},
                reward=reward,
                episodes_per_round=1,
            )
        )
