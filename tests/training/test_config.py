"""Former keys of a training config work, and say what to write now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vla.common import renamed
from vla.common.renamed import RenamedWarning
from vla.config import ConfigError, load_config
from vla.training import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
ROBOTS = {"arm": {"path": "data/arm"}, "hand": {"path": "data/hand"}}


def load(data: dict[str, Any], *overrides: str) -> TrainConfig:
    values = {"out": "run", "data": data, "policy": {"type": "mlp"}, "steps": 10}
    return load_config(TrainConfig, values, overrides)


def test_the_official_rt1_has_the_published_optimiser() -> None:
    """Adam at a constant 1e-4: no decay, no warm-up, no running mean of the weights."""
    config = load_config(TrainConfig, CONFIGS / "rt1_official.yaml", section="train")
    optim = config.optim
    assert (optim.lr, optim.schedule, optim.warmup_steps) == (1e-4, "constant", 0)
    assert (optim.weight_decay, optim.betas) == (0, (0.9, 0.999))
    assert config.ema_decay is None


def test_several_robots_by_their_former_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_announced", set())
    with pytest.warns(RenamedWarning) as caught:
        config = load({"mixture": ROBOTS, "mixture_temperature": 2.0})
    assert [str(warning.message) for warning in caught] == [
        "mixture is now called multi_robot; the old name still works",
        "mixture_temperature is now called multi_robot_temperature; the old name still works",
    ]
    assert list(config.data.multi_robot) == ["arm", "hand"]
    assert config == load({"multi_robot": ROBOTS, "multi_robot_temperature": 2.0})
    # each is announced once: no warning here
    moved = load({"mixture": ROBOTS}, "data.mixture.arm.path=elsewhere")
    assert moved.data.multi_robot["arm"].path == "elsewhere"


def test_both_spellings_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="mixture is now called multi_robot, and both are set"):
        load({"multi_robot": ROBOTS}, "data.mixture.arm.path=elsewhere")
