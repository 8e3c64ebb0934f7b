"""Advantages beside the truth that collection keeps."""

from __future__ import annotations

from pathlib import Path

from vla.config import load_config
from vla.sim_eval.collection.recording import CollectConfig, collect
from vla.training import TrainConfig, train
from vla.training.offline_evaluation.diagnostics import diagnose

ENV = {"type": "tabletop", "tasks": ["reach"], "cameras": [], "state": "scene", "horizon": 200}


def test_values_of_a_minute_tell_detours_from_the_rest(tmp_path: Path) -> None:
    collected = {
        "env": ENV,
        "out": tmp_path / "data",
        "episodes_per_task": 30,
        "noise": {"std": 0.0},
        "behaviours": {"detours": {"count": [2, 2], "starts": 1.0}},
        "workers": 1,
    }
    collect(load_config(CollectConfig, collected))
    settings = {
        "out": str(tmp_path / "run"),
        "data": {"path": str(tmp_path / "data"), "rewards": {"kind": "success"}},
        "policy": {"type": "mlp", "hidden": 64, "chunk": 2},
        "objective": {"type": "awr", "advantage_steps": 4, "discount": 0.95},
        "optim": {"lr": 1e-3},
        "steps": 300,
        "ema_decay": None,
        "validate_every": None,
    }
    train(load_config(TrainConfig, settings))
    found = diagnose(tmp_path / "run").sets["training"]
    # 0.5 would be chance; of these very episodes, so that thirty are enough
    assert found.metrics["advantage_auc"] > 0.65
