"""`~` and variables in paths: in configs, in overrides and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.common.errors import UserError
from vla.common.paths import expanded_path
from vla.config import ConfigError, load_config
from vla.sim_eval.evaluation import EvalConfig
from vla.training import TrainConfig
from vla.training.offline_evaluation.fitted_q_evaluation import FQEConfig


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNS", "~/runs")
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("~/data", "{home}/data"),
        ("$HOME/data", "{home}/data"),
        ("$RUNS/a", "{home}/runs/a"),
        ("x/${HOME}y", "x/{home}y"),
        ("data/mt10", "data/mt10"),
        ("hf://datasets/user/name", "hf://datasets/user/name"),
        # neither a home nor a variable
        ("runs/a~b", "runs/a~b"),
        ("price$", "price$"),
    ],
)
def test_what_stands_for_something_is_replaced(written: str, expected: str, home: Path) -> None:
    assert expanded_path(written) == expected.format(home=home)


def test_what_is_not_set_is_named_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"\$\{NOWHERE\}/a: .* NOWHERE is not set; set it \(export"):
        expanded_path("${NOWHERE}/a")
    with pytest.raises(UserError, match=r"~nobody_here/a: there is no such user"):
        expanded_path("~nobody_here/a")


def test_what_lies_there_under_the_very_name_is_meant(tmp_path: Path) -> None:
    (tmp_path / "$NOWHERE").mkdir()
    assert expanded_path("$NOWHERE") == "$NOWHERE"


def test_every_path_of_a_config_is_expanded(home: Path) -> None:
    data = {"path": "~/d", "replay": [{"path": "~/r", "weight": 0.1}]}
    values = {"out": "~/out", "steps": 2, "optim": {"warmup_steps": 0}, "data": data}
    values |= {"init_from": "$HOME/p", "co_training": {"path": "~/pairs"}}
    config = load_config(TrainConfig, values)
    assert (config.out, config.init_from) == (f"{home}/out", f"{home}/p")
    assert (config.data.path, config.data.replay[0].path) == (f"{home}/d", f"{home}/r")
    assert config.co_training.path == f"{home}/pairs"
    robots = {"path": "", "multi_robot": {"arm": {"path": "~/a"}}}
    several = {"out": "o", "steps": 2, "data": robots, "policy": {"type": "mlp", "language": "~/l"}}
    config = load_config(TrainConfig, several)
    assert config.data.multi_robot["arm"].path == f"{home}/a"
    assert config.policy.language == f"{home}/l"
    evaluation = load_config(EvalConfig, {"env": {"type": "tabletop"}}, ["policy=~/p", "out=~/e"])
    assert (evaluation.policy, evaluation.out) == (f"{home}/p", f"{home}/e")
    fqe = load_config(FQEConfig, {"policies": ["~/a*"], "data": {"path": "~/d"}}, ["out=~/f"])
    assert (fqe.policies, fqe.data.path, fqe.out) == ([f"{home}/a*"], f"{home}/d", f"{home}/f")


def test_a_variable_that_is_not_set_is_the_keys_mistake() -> None:
    values = {"out": "o", "steps": 2, "policy": {"type": "mlp"}}
    with pytest.raises(ConfigError, match=r"^data\.path: \$NOWHERE/d: the environment variable"):
        load_config(TrainConfig, values, ["data.path=$NOWHERE/d"])


def test_arguments_and_options_are_expanded_too(home: Path) -> None:
    runner = CliRunner()
    missing = runner.invoke(app, ["data", "info", "~/data"])
    assert missing.exit_code == 2
    assert f"{home}/data: no such folder" in missing.stderr
    unset = runner.invoke(app, ["data", "view", "data", "--out", "$NOWHERE/view.html"])
    assert unset.exit_code == 2
    assert "NOWHERE is not set" in unset.stderr.replace("\n", " ")
    compared = runner.invoke(app, ["compare", "a=~/runs/a", "b=~/runs/b"])
    assert f"{home}/runs/a" in compared.stderr.replace("\n", "")
