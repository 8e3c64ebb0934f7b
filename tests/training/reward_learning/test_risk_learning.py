"""A risk network that learns from episodes with failures, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reward_toys as toys
from typer.testing import CliRunner

from vla.cli import app
from vla.config import load_config
from vla.data import EpisodeDataset
from vla.models.rewards.storage import load_reward
from vla.training.reward_learning.config import RewardTrainConfig
from vla.training.reward_learning.learning import RewardResult, learn_reward
from vla.training.reward_learning.reward_columns import write_rewards
from vla.training.reward_learning.risk_measures import calibration


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("risk")
    toys.write(root / "data", 180)
    return root


@pytest.fixture(scope="module")
def risk(root: Path) -> RewardResult:
    settings = {
        "out": str(root / "risk"),
        "data": {"path": str(root / "data"), "validation_fraction": 0.25},
        "policy": {"type": "mlp", "hidden": 8, "language": "minilm"},
        "model": {"type": "risk", "hidden": 32, "horizon": 0.3, "penalty": 0.5},
        "optim": {"lr": 3e-3, "warmup_steps": 0},
        "steps": 300,
        "validate_every": None,
        "save_every": None,
    }
    return learn_reward(load_config(RewardTrainConfig, settings))


def test_it_foresees_failures_and_is_calibrated(risk: RewardResult) -> None:
    found = risk.measures
    # who goes the wrong way ends without success within a few steps
    assert found["auc"] > 0.9
    assert found["episode_auc"] > 0.95
    assert found["expected_calibration_error"] < 0.12
    assert found["caught"] > 0.8
    assert 0 <= found["warned"] <= 0.2
    assert found["false_alarms"] < 0.2
    steps = sum(value for name, value in found.items() if name.endswith("/steps"))
    assert steps > 50
    stored = load_reward(risk.out)
    assert float(stored.threshold) == pytest.approx(found["threshold"])
    assert stored.card["held out"] == found


def test_calibration_by_hand() -> None:
    predicted = np.array([0.05, 0.05, 0.05, 0.05, 0.95, 1.0])
    observed = np.array([False, False, False, True, True, False])
    found = calibration(predicted, observed)
    # two bins: 0.05 against 1/4 of four steps, 0.975 against 1/2 of two
    expected = 4 / 6 * 0.2 + 2 / 6 * 0.475
    assert found["expected_calibration_error"] == pytest.approx(expected)
    assert found["reliability/0.9-1.0/steps"] == 2
    assert found["reliability/0.0-0.1/observed"] == 0.25
    assert found["positive_rate"] == pytest.approx(1 / 3)
    assert found["brier"] == pytest.approx(np.square(predicted - observed).mean())
    assert "reliability/0.4-0.5/steps" not in found


def test_the_penalty_is_taken_from_recorded_rewards(
    risk: RewardResult, root: Path, tmp_path: Path
) -> None:
    source = EpisodeDataset(root / "data")
    command = ["data", "score", str(root / "data"), "--reward", str(risk.out)]
    result = CliRunner().invoke(app, [*command[:3], str(tmp_path / "scored"), *command[3:]])
    assert result.exit_code == 0, result.output
    made = EpisodeDataset(tmp_path / "scored").columns
    chance = made.extras["risk"]
    assert chance.min() >= 0
    assert chance.max() > 0.5
    np.testing.assert_allclose(made.rewards, source.columns.rewards - 0.5 * chance, atol=1e-6)
    np.testing.assert_array_equal(made.success, source.columns.success)
    write_rewards(risk.out, root / "data", tmp_path / "beside", columns=True, jobs=1)
    kept = EpisodeDataset(tmp_path / "beside").columns
    np.testing.assert_array_equal(kept.rewards, source.columns.rewards)
    np.testing.assert_allclose(kept.extras["learned_reward"], -0.5 * chance, atol=1e-6)
    np.testing.assert_allclose(kept.extras["risk"], chance, atol=1e-6)
