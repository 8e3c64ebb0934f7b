"""Settings that change nothing are named."""

from __future__ import annotations

from typing import Any

import pytest

from vla.common.errors import UserError
from vla.config import load_config
from vla.training.config import TrainConfig
from vla.training.run_data.ineffective import ineffective_settings

BASE: dict[str, Any] = {
    "out": "run",
    "data": {"path": "data"},
    "policy": {"type": "mlp"},
    "steps": 10,
}
SETTINGS = {
    "optim.lr": ["optim.lr=5e-324"],
    "optim.critic.lr": ["optim.critic={lr: 1e-40}"],
    "optim.clip_norm": ["optim.clip_norm=1e-300"],
    "optim.eps": ["optim.eps=1e300"],
    "optim.min_lr_fraction": ["optim.min_lr_fraction=0.5", "optim.schedule=constant"],
    "optim.rates.policy.*": ["optim.rates={policy.*: 1e-300}"],
    "data.rewards.scale": ["data.rewards.scale=1e-300"],
    "objective.priorities": ["objective={type: dqn}"],
    "data.replay.0.weight": ["data.replay=[{path: other, weight: 1e-9}]"],
}


def test_usual_settings_have_an_effect() -> None:
    assert ineffective_settings(load_config(TrainConfig, BASE)) == []


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_without_effect_is_named(key: str) -> None:
    found = ineffective_settings(load_config(TrainConfig, BASE, SETTINGS[key]))
    assert len(found) == 1
    assert found[0].startswith(f"{key}: ")


@pytest.mark.parametrize(
    "setting",
    [
        *("seed=4294967296", "seed=-1", "batch_size=1000000000", "steps=99999999999999"),
        *("policy.chunk=1000000", "data.task_weights.x=1e308", "grad_accumulation=10000000"),
        "data.task_balance=1e300",
    ],
)
def test_numbers_out_of_bounds(setting: str) -> None:
    with pytest.raises(UserError, match=setting.partition("=")[0]):
        load_config(TrainConfig, BASE, [setting])


def test_a_path_holds_no_nul() -> None:
    with pytest.raises(UserError, match=r"out: .*holds a NUL character"):
        load_config(TrainConfig, BASE | {"out": "a\0b"})
