"""What is found of a run's critics, and when to stop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from value_chain import DISCOUNT, REWARDS, write_chain

from vla.cli import app
from vla.config import ConfigError, load_config
from vla.data import EpisodeDataset, Windows
from vla.models.policies.mlp import MLPConfig
from vla.training import TrainConfig, train
from vla.training.objectives.iql import IQLConfig
from vla.training.offline_evaluation.diagnostics import diagnose
from vla.training.offline_evaluation.early_stopping import advise_stop
from vla.training.offline_evaluation.run_values import step_values
from vla.training.offline_evaluation.scatter_plot import dots_svg

CRITIC = {"hidden": 32}
HEAD = {"type": "q_values"}
OBJECTIVES = {
    "sarsa": {
        "type": "actor_critic",
        "value": {"type": "td", "next_actions": "data", "critic": CRITIC, "target_rate": 0.05},
        "extraction": {"type": "weighted_bc", "beta": 1.0},
    },
    "cql": {
        "type": "actor_critic",
        "value": {"type": "conservative", "sampled": 2, "critic": CRITIC, "target_rate": 0.05},
        "extraction": {"type": "bc"},
    },
    "tokens": {"type": "q_transformer"},
    "bc": {"type": "bc"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each objective on the chain of `value_chain`."""
    root = tmp_path_factory.mktemp("runs")
    write_chain(root / "data")
    for name, objective in OBJECTIVES.items():
        settings = {
            "out": str(root / name),
            "data": {"path": str(root / "data"), "validation_fraction": 0.2, "rewards": REWARDS},
            "policy": {
                "type": "mlp",
                "hidden": 16,
                "depth": 1,
                **({"head": HEAD} if name == "tokens" else {}),
            },
            "objective": objective if name == "bc" else objective | {"discount": DISCOUNT},
            "optim": {"lr": 3e-3, "warmup_steps": 0},
            "steps": 250 if name == "sarsa" else 20,
            "batch_size": 32,
            "ema_decay": None,
            "log_every": 2,
            "validate_every": None,
            "save_every": 10 if name == "cql" else None,
        }
        train(load_config(TrainConfig, settings))
    return root


def test_values_of_the_data_are_calibrated_and_weights_are_reported(runs: Path) -> None:
    found = diagnose(runs / "sarsa")
    assert (found.step, list(found.sets), found.stop) == (250, ["training", "held out"], None)
    for diagnosis in found.sets.values():
        assert diagnosis.calibration is not None
        assert diagnosis.calibration.correlation > 0.6  # returns are random, their means are known
        assert abs(diagnosis.calibration.bias) < 0.1
        assert diagnosis.calibration.slope == pytest.approx(1.0, abs=0.3)
        assert sum(b.count for b in diagnosis.calibration.bins) == diagnosis.steps
        assert 0 < diagnosis.metrics["weight_ess"] <= 1
        assert 0 < diagnosis.metrics["advantage_positive"] < 1
        assert diagnosis.metrics["weight_clipped"] == 0  # advantages of at most 1 at beta 1
        assert diagnosis.metrics["td_loss"] < 0.2
        gap = diagnosis.metrics["q_policy"] - diagnosis.metrics["q_data"]
        assert diagnosis.metrics["q_policy_above_data"] == pytest.approx(gap, abs=1e-5)


def test_a_checkpoint_by_its_step_and_the_curves_of_conservative_values(runs: Path) -> None:
    found = diagnose(runs / "cql", step=10, episodes=7, windows=6)
    assert found.step == 10
    assert {(s.episodes, s.steps) for s in found.sets.values()} == {(7, 6)}
    assert {"conservative_gap", "q_uniform", "q_mode"} <= found.sets["held out"].metrics.keys()
    assert found.stop is not None
    assert found.nearest is not None
    assert Path(found.nearest).is_dir()
    torch.manual_seed(1)  # samples are drawn by the run's seed
    assert diagnose(runs / "cql", step=10, episodes=7, windows=6) == found
    with pytest.raises(ConfigError, match="steps saved: 10, 20"):
        diagnose(runs / "cql", step=15)
    (runs / "cql" / "checkpoints" / "step-10-mine").mkdir()  # set aside by somebody
    with pytest.raises(ConfigError, match="steps saved: 10, 20"):
        diagnose(runs / "cql", step=15)
    (runs / "cql" / "checkpoints" / "step-10-mine").rmdir()


def test_values_of_action_tokens(runs: Path) -> None:
    for diagnosis in diagnose(runs / "tokens", episodes=9).sets.values():
        assert diagnosis.calibration is not None
        assert sum(b.count for b in diagnosis.calibration.bins) == diagnosis.steps
        mean = sum(b.count * b.predicted for b in diagnosis.calibration.bins) / diagnosis.steps
        assert diagnosis.metrics["q_data"] == pytest.approx(mean, abs=1e-5)
        assert 0 < diagnosis.metrics["q_data"] < 1


def test_a_run_without_values_and_a_folder_without_run(runs: Path) -> None:
    found = diagnose(runs / "bc")
    assert found.sets["training"].calibration is None
    assert "action_error" in found.sets["training"].metrics
    with pytest.raises(ConfigError, match="no training run"):
        diagnose(runs / "data")


def test_command_line(runs: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["diagnose", str(runs / "sarsa"), "--episodes", "9", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert "values by tenths" in result.output
    assert (
        json.loads((tmp_path / "diagnostics.json").read_text())["sets"]["held out"]["episodes"] == 9
    )
    assert (tmp_path / "calibration.svg").read_text().count("<use ") > 10


def test_advantages_of_outcomes_are_those_that_training_weighs_by(tmp_path: Path) -> None:
    windows = Windows(
        EpisodeDataset(write_chain(tmp_path / "data", episodes=30)),
        history=1,
        chunk=1,
        next_step=1,
        discount=DISCOUNT,
    )
    policy = MLPConfig(hidden=8, depth=1).build(windows.spec).eval()
    objective = IQLConfig(advantage="outcome", discount=DISCOUNT).build(policy).eval()
    batch = windows.batch(np.arange(len(windows)))
    with torch.no_grad():
        advantage_N = step_values(objective, policy, batch)["advantage"]
        values = objective.value.state_critic(policy(batch).features)
    known = batch.terminals[:, 0] | batch.mask[:, 1]
    goes_on = (~batch.terminals[:, 0]).float()
    by_hand = batch.rewards[:, 0] + DISCOUNT * goes_on * values[:, 1] - values[:, 0]
    assert 0 < known.sum() < len(windows)
    torch.testing.assert_close(advantage_N[known], by_hand[known])


# --- when to stop ---------------------------------------------------------------------------------


def lines_of(**curves) -> list[dict[str, float]]:
    count = len(next(iter(curves.values())))
    named = {name.replace("validation_", "validation/"): values for name, values in curves.items()}
    return [
        {"step": 100 * (i + 1), **{name: float(v[i]) for name, v in named.items()}}
        for i in range(count)
    ]


def test_a_peak_of_q_is_where_to_stop() -> None:
    rise_and_fall = np.concatenate([np.linspace(0, 10, 11), np.linspace(9, 2, 8)])
    advice = advise_stop(
        lines_of(q_data=rise_and_fall, conservative_gap=np.full(19, -1.0)), smooth=1
    )
    assert (advice.step, advice.reason, advice.underfitted) == (1100, "q_falls", False)
    assert "rose to 10 and fell to 2" in advice.text


def test_noise_at_the_end_is_no_fall() -> None:
    rise = np.linspace(0, 10, 20) - 0.5 * (np.arange(20) % 2)
    advice = advise_stop(lines_of(q_data=rise, conservative_gap=np.full(20, 2.0)))
    assert (advice.step, advice.reason, advice.underfitted) == (2000, "no_fall", True)
    assert "conservative_gap 2" in advice.text


def test_held_out_q_that_falls_while_the_other_rises() -> None:
    rise = np.linspace(0, 10, 12)
    held_out = np.concatenate([rise[:6], np.linspace(4, 1, 6)])
    advice = advise_stop(lines_of(q_data=rise, validation_q_data=held_out))
    assert (advice.step, advice.reason, advice.underfitted) == (600, "held_out_falls", None)
    both_fall = np.concatenate([rise[:6], np.linspace(4, 1, 6)])
    assert (
        advise_stop(lines_of(q_data=both_fall, validation_q_data=held_out), smooth=1).reason
        == "q_falls"
    )


def test_curves_that_tell_nothing() -> None:
    assert advise_stop(lines_of(q_data=[1, 2, 3])).reason == "too_short"
    falling = advise_stop(lines_of(q_data=np.linspace(5, -5, 20)), smooth=1)
    assert (falling.reason, falling.step) == ("no_fall", 2000)
    with pytest.raises(ValueError, match="fall is 2"):
        advise_stop([], fall=2)


def test_dots_stay_inside_the_picture() -> None:
    svg = dots_svg(
        {"a": [(-1.0, 5.0, "first <1>"), (3.0, 5.0, "")], "b": [(0.0, 5.0, "x")]},
        "title",
        x="x",
        y="y",
    )
    assert svg.count("<use ") == 3 + 2  # and the legend's
    assert "first &lt;1&gt;" in svg
