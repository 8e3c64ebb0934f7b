"""The folder for LeRobot's scripts, written without LeRobot; `make interop` runs it with LeRobot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_policies import TEXTS, rt1
from typer.testing import CliRunner

from vla.cli.app import app
from vla.common.errors import UserError
from vla.export import export_lerobot
from vla.models import load_policy
from vla.types import Observation, Spec


@pytest.fixture(scope="module")
def exported(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lerobot") / "out"
    export_lerobot(rt1(spec, cameras=["front", "wrist"]), folder)
    return folder


def test_the_config_names_what_the_robot_has_to_give(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["type"] == "vla"
    assert config["input_features"]["observation.images.front"] == {
        "type": "VISUAL",
        "shape": [3, 32, 48],
    }
    assert config["input_features"]["observation.state"] == {"type": "STATE", "shape": [2]}
    assert config["output_features"]["action"] == {"type": "ACTION", "shape": [3]}
    assert config["cameras"]["wrist"] == "observation.images.wrist"


def test_pipelines_have_the_steps_that_the_scripts_override(exported: Path) -> None:
    steps = json.loads((exported / "policy_preprocessor.json").read_text())["steps"]
    names = [step["registry_name"] for step in steps]
    assert names == ["rename_observations_processor", "to_batch_processor", "device_processor"]
    after = json.loads((exported / "policy_postprocessor.json").read_text())["steps"]
    assert [step["registry_name"] for step in after] == ["device_processor"]


def test_the_checkpoint_inside_is_the_policy(exported: Path, spec: Spec) -> None:
    inside = load_policy(exported / "vla")
    images = {name: np.zeros((1, 32, 48, 3), np.uint8) for name in spec.cameras}
    observation = Observation.from_numpy(images, np.ones((1, 2), np.float32), [TEXTS[0]])
    with torch.no_grad():
        torch.testing.assert_close(
            inside.act(observation, None)[0],
            rt1(spec, cameras=["front", "wrist"]).act(observation, None)[0],
        )


def test_a_folder_of_something_else_is_left_as_it_is(spec: Spec, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="name another folder"):
        export_lerobot(rt1(spec), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_command_exports_and_replaces(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        result = CliRunner().invoke(app, ["export", "lerobot", str(exported / "vla"), str(out)])
        assert result.exit_code == 0, result.output
        assert "lerobot-record --policy.path=" in result.output
    assert load_policy(out / "vla").spec.action_dim == 3
