"""Values and advantages of a run as columns of a dataset, and on the page that shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from value_chain import DISCOUNT, REWARDS, write_chain

from vla.cli import app
from vla.config import ConfigError, load_config
from vla.data import EpisodeDataset
from vla.data.view.episodes import curves, signals
from vla.training import TrainConfig, train
from vla.training.offline_evaluation.value_columns import value_columns, write_values

CRITIC = {"hidden": 32}
IQL = {
    "type": "iql",
    "critic": CRITIC,
    "discount": DISCOUNT,
    "target_rate": 0.05,
    "monte_carlo_floor": False,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_chain(root / "data")
    for name, objective in {"iql": IQL, "bc": {"type": "bc"}}.items():
        settings = {
            "out": str(root / name),
            "data": {"path": str(root / "data"), "rewards": REWARDS},
            "policy": {"type": "mlp", "hidden": 16, "depth": 1},
            "objective": objective,
            "optim": {"lr": 3e-3, "warmup_steps": 0},
            "steps": 300,
            "batch_size": 32,
            "ema_decay": None,
            "validate_every": None,
            "save_every": None,
        }
        train(load_config(TrainConfig, settings))
    return root


def test_what_went_right_has_the_greater_value_and_advantage(runs: Path) -> None:
    dataset = EpisodeDataset(runs / "data")
    found = value_columns(runs / "iql", dataset)
    assert {name: values.shape for name, values in found.items()} == {
        "value": (dataset.num_frames,),
        "advantage": (dataset.num_frames,),
    }
    place_N = dataset.columns.state.argmax(1)
    # the chain ends well at its right end
    assert found["value"][place_N == 2].mean() > found["value"][place_N == 0].mean() + 0.05
    right_N = dataset.columns.actions[:, 0] > 0
    last_N = place_N == 2
    better, worse = found["advantage"][last_N & right_N], found["advantage"][last_N & ~right_N]
    assert better.mean() > worse.mean() + 0.1


def test_a_dataset_with_them_is_written_and_shown(runs: Path, tmp_path: Path) -> None:
    command = ["data", "score", str(runs / "data"), str(tmp_path / "valued"), "--values"]
    result = CliRunner().invoke(app, [*command, str(runs / "iql")])
    assert result.exit_code == 0, result.output
    source, made = EpisodeDataset(runs / "data"), EpisodeDataset(tmp_path / "valued")
    expected = value_columns(runs / "iql", source)
    for name, values in expected.items():
        np.testing.assert_array_equal(made.columns.extras[name], values)
    np.testing.assert_array_equal(made.columns.actions, source.columns.actions)
    names = [signal["name"] for signal in signals(made, rewards=True)]
    assert names[-2:] == ["value", "advantage"]
    drawn, _ = curves(made, 3, rewards=True)
    np.testing.assert_array_equal(drawn[-1], made.episode(3).extras["advantage"])
    # scored twice: the new columns replace the former ones
    write_values(runs / "iql", tmp_path / "valued", tmp_path / "again")
    assert list(EpisodeDataset(tmp_path / "again").columns.extras) == ["value", "advantage"]


def test_a_run_without_values_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its objective bc learns no values"):
        write_values(runs / "bc", runs / "data", tmp_path / "valued")
    assert not (tmp_path / "valued").exists()
