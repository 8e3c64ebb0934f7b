"""From a checkpoint to a folder without torch, and the proof that it plays as well: by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import point_env  # registers the env that is played
import pytest
from small_policies import mlp
from typer.testing import CliRunner

from vla.cli.app import app
from vla.recipes.export_check import NonInferiority
from vla.sim_eval import Results

runner = CliRunner()
EVAL = """
env: {type: test_point, image_size: 16, horizon: 4}
workers: 0
videos_per_task: 0
episodes_per_task: 100
"""


def run(*arguments: object, status: int = 0) -> str:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    return done.output


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "policy"
    mlp(point_env.PointConfig().spec(), chunk=1, language="blank").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    texts = folder / "texts.txt"
    texts.write_text("Go home\n\n")
    said = run("export", "onnx", checkpoint, folder / "out", "--instructions", texts)
    assert "exported: " in said
    return folder / "out"


def test_the_command_line_exports_checks_and_evaluates(exported: Path, tmp_path: Path):
    out = Path(shutil.copytree(exported, tmp_path / "exported"))
    config = tmp_path / "eval.yaml"
    config.write_text(EVAL)
    shown = run("export", "check", out, f"out={tmp_path / 'check'}", "--eval", config)
    assert "not worse: it loses +0.0% of 200 paired episodes" in shown
    found = json.loads((out / "check.json").read_text())["evaluation"]
    assert (found["episodes"], found["only_policy"], found["only_exported"]) == (200, 0, 0)
    assert (tmp_path / "check" / "report.html").is_file()
    # a package is evaluated like any policy, and gets the same results
    run("eval", config, f"policy={out}", f"out={tmp_path / 'alone'}", "episodes_per_task=2")
    alone = Results.load(tmp_path / "alone")
    assert alone.config["policy"] == str(out)
    assert len(alone.episodes) == 4


def test_what_cannot_be_checked_is_named(checkpoint: Path, exported: Path, tmp_path: Path):
    out = Path(shutil.copytree(exported, tmp_path / "exported"))
    assert "give --data DATASET, --eval CONFIG, or both" in run("export", "check", out, status=2)
    assert "--eval CONFIG is missing" in run("export", "check", out, "a=1", status=2)
    config = tmp_path / "eval.yaml"
    config.write_text(EVAL)
    refused = run(
        "export",
        "check",
        out,
        "--eval",
        config,
        "episodes_per_task=99",
        f"out={tmp_path}",
        status=2,
    )
    assert "expected at least 200: set episodes_per_task=100" in refused.replace("\n", " ")
    missing = run("export", "onnx", checkpoint, out, "--instructions", tmp_path / "no", status=2)
    assert "--instructions" in missing


def verdict(both: int, only_policy: int, only_exported: int, neither: int) -> NonInferiority:
    return NonInferiority(both, only_policy, only_exported, neither, p_value=1.0)


def test_a_loss_that_matters_has_to_be_ruled_out():
    # Wilson's one-sided bound of a rate of 1: z^2 / (n + z^2), with z = 1.645
    everything = verdict(200, 0, 0, 0)
    assert everything.largest_loss == pytest.approx(2.7055 / 202.7055, abs=1e-5)
    assert everything.passes
    equal = verdict(100, 0, 0, 100)
    assert equal.passes
    worse = verdict(90, 12, 0, 98)
    assert worse.loss == pytest.approx(0.06)
    assert not worse.passes
    # no difference is found, and none is ruled out: two unreliable policies
    unclear = verdict(80, 20, 20, 80)
    assert unclear.loss == 0
    assert not unclear.passes
    assert unclear.sentence().startswith("not shown to be as good: it loses +0.0% of 200")
    # a better one need not be proven equal
    assert verdict(100, 2, 30, 68).passes
