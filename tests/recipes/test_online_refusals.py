"""What `vla online` refuses, in one line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import point_env  # noqa: F401 - registers its env
import pytest

from vla.config import ConfigError, UserError, validate
from vla.recipes.online import OnlineConfig, online

TOKENS = {"head": {"type": "categorical"}, "tokenizer": {"type": "bins", "num_bins": 5}}
MLP = {"type": "mlp", "hidden": 16, "language": None, **TOKENS}
MAZE: dict[str, Any] = {
    "env": {"type": "stitch", "horizon": 12},
    "policy": MLP,
    "objective": {"type": "bc"},
    "rounds": 1,
    "episodes_per_round": 4,
    "updates": 3,
    "batch_size": 8,
    "evaluate": None,
}
PPO = {"objective": {"type": "ppo", "critic": {"hidden": 16}}, "keep": "round"}


def run(out: Path, **changes: Any) -> None:
    online(validate(OnlineConfig, {**MAZE, "out": str(out), **changes}))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an earlier run has played."""
    out = tmp_path_factory.mktemp("earlier")
    run(out)
    return out / "episodes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 11}, r"keep: 11 steps do not hold one episode, which takes up to 12"),
        ({**PPO, "precision": "bf16"}, "precision: policy gradients compare"),
        ({"updates": None}, "epochs, updates, updates_per_step: give one of them"),
        ({"updates_per_step": 1}, "epochs, updates, updates_per_step: give one of them"),
        (
            {"env": {"type": "locomotion", "robot": "hopper"}, "label": {}},
            "label: task .* no expert",
        ),
    ],
)
def test_settings(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        run(tmp_path / "run", **changes)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_policy_gradients_take_no_prior_data(tmp_path: Path, recorded: Path) -> None:
    prior = {"path": str(recorded), "share": 0.5}
    with pytest.raises(ConfigError, match="prior_data: policy gradients learn from what the"):
        run(tmp_path / "run", prior_data=prior, **PPO)


def test_prior_data_of_another_robot(tmp_path: Path, recorded: Path) -> None:
    prior = {"path": str(recorded), "share": 0.5}
    env = {"type": "test_point", "image_size": 16, "horizon": 8}
    with pytest.raises(ConfigError, match=r"prior_data\.path: .*action_names are"):
        run(tmp_path / "run", env=env, prior_data=prior)
    with pytest.raises(UserError, match="nothing_here"):
        run(tmp_path / "other", prior_data={"path": str(tmp_path / "nothing_here")})


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    with pytest.raises(ConfigError, match="holds something else than a run of `vla online`"):
        run(tmp_path)


def test_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    with pytest.raises(ConfigError, match="acts and learns in one process, but was launched in 2"):
        run(tmp_path / "run")


def test_prior_data_and_updates_by_steps(tmp_path: Path, recorded: Path) -> None:
    """What is not refused: a share of every batch, and updates that count what was played."""
    prior = {"path": str(recorded), "share": 0.5}
    settings = {**MAZE, "updates": None, "updates_per_step": 0.25, "prior_data": prior}
    result = online(validate(OnlineConfig, {**settings, "out": str(tmp_path / "run")}))
    assert result.metrics["played/steps"] == 48
    assert result.metrics["updates"] == 12
