"""The folder of a run: what may be resumed there, and what the refusals say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vla.config import ConfigError, load_config
from vla.training import TrainConfig
from vla.training.run_directory import open_run, write_run

VALUES = {"data": {"path": "data"}, "policy": {"type": "mlp"}, "steps": 10}


def config(out: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, {**VALUES, "out": str(out)}, overrides)


def test_other_steps_say_how_to_train_longer(tmp_path: Path) -> None:
    write_run(config(tmp_path), "no")
    with pytest.raises(ConfigError) as caught:
        open_run(config(tmp_path, "steps=20"), resume=True)
    assert caught.value.problems == [
        f"steps: is 20, the run in {tmp_path} has 10; restore it; to train longer, set init_from: {tmp_path}/policy and "
        "another out"
    ]


@pytest.mark.filterwarnings("ignore::vla.common.renamed.RenamedWarning")
def test_a_run_with_former_keys_is_resumed(tmp_path: Path) -> None:
    robots = {"path": "", "multi_robot": {"arm": {"path": "a"}, "hand": {"path": "b"}}}
    now = load_config(TrainConfig, {**VALUES, "out": str(tmp_path), "data": robots})
    write_run(now, "no")
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    stored["data"]["mixture"] = stored["data"].pop("multi_robot")
    stored["data"]["mixture_temperature"] = stored["data"].pop("multi_robot_temperature")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    assert open_run(now, resume=True) is None  # no checkpoint yet
    # what the stored config lacks is no default: it may have been something else then
    del stored["data"]["variable_history"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(ConfigError, match=r"data\.variable_history: is False, the run .* has None"):
        open_run(now, resume=True)


def test_a_run_from_before_an_option_of_its_policy_goes_on_as_it_was(tmp_path: Path) -> None:
    seeing = load_config(TrainConfig, {**VALUES, "policy": {"type": "rt1"}, "out": str(tmp_path)})
    write_run(seeing, "no")
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored["policy"].pop("read_place") == "slot"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(ConfigError, match=r"policy\.read_place: is 'slot', the run .* 'content'"):
        open_run(seeing, resume=True)
    values = {**VALUES, "policy": {"type": "rt1", "read_place": "content"}, "out": str(tmp_path)}
    assert open_run(load_config(TrainConfig, values), resume=True) is None


@pytest.mark.parametrize("resume", [True, False])
def test_the_config_of_an_earlier_evaluation_is_no_run(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "config.yaml").write_text("env: {type: tabletop}\npolicy: expert\n")
    with pytest.raises(
        ConfigError,
        match=r"config of an evaluation, .*; name another out, or rename the file eval.yaml",
    ):
        open_run(config(tmp_path), resume=resume)
    (tmp_path / "versions.json").write_text("{}")  # training wrote over by it
    with pytest.raises(
        ConfigError,
        match=r"config of an evaluation, .* name another out, with init_from: .*/policy",
    ):
        open_run(config(tmp_path), resume=resume)
