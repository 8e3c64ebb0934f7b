"""`vla doctor`: finds what is wrong with a policy or its data, and nothing where nothing is wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import vla
from vla.cli.app import app
from vla.common.errors import UserError
from vla.config import load_config
from vla.data import DatasetWriter, Episode
from vla.models import load_policy
from vla.recipes.doctor.check import doctor_checks
from vla.recipes.doctor.checks.statistics import unit_of
from vla.recipes.doctor.report import DoctorReport, doctor
from vla.training import TrainConfig, train
from vla.types import Spec

STATE = ("x", "y", "gripper", "goal_x", "goal_y")
SPEC = Spec({}, STATE, ("dx", "gripper"), (-1.0, -1.0), (1.0, 1.0), 10.0)
TEXTS = ("go to the goal", "go away from the goal")
Change = Callable[[Episode], dict[str, Any]]


def episode(number: int) -> Episode:
    """A hand that goes to a goal or away from it, as the instruction says, and closes midway."""
    rng = np.random.default_rng([5, number])
    L = 16
    sign = (1.0, -1.0)[number % 2]
    x, goal = rng.uniform(-1, 1, 2)
    states, actions = [], []
    gripper = -1.0
    for _ in range(L):
        # a stirred hand: neither step nor past says where it is
        y = rng.normal()
        command = 1.0 if y > 0 else -1.0
        dx = float(np.clip(sign * (goal - x), -1, 1))
        states.append([x, y, gripper, goal, 0.5 * goal])
        actions.append([dx, command])
        gripper = command
        x += 0.3 * dx + 0.2 * rng.normal()
    done = np.arange(L) == L - 1
    return Episode(
        images={},
        state=np.asarray(states, np.float32),
        actions=np.asarray(actions, np.float32),
        rewards=done.astype(np.float32),
        success=done,
        terminated=True,
        instruction=TEXTS[number % 2],
    )


def write(
    root: Path, count: int, first: int = 0, change: Change | None = None, spec: Spec = SPEC
) -> Path:
    made = [episode(number) for number in range(first, first + count)]
    with DatasetWriter(root, spec) as writer:
        writer.add_episodes([dataclasses.replace(e, **change(e)) if change else e for e in made])
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy run of a small policy."""
    root = tmp_path_factory.mktemp("doctor")
    values = {
        "out": str(root / "run"),
        "data": {"path": str(write(root / "seen", 100)), "validation_fraction": 0.1},
        "policy": {
            "type": "mlp",
            "language": "minilm",
            "standardise_language": True,
            "hidden": 64,
            "head": {"type": "regression"},
        },
        "steps": 350,
        "batch_size": 64,
        "optim": {"lr": 3e-3, "warmup_steps": 10},
        "ema_decay": 0.98,
        "validate_every": None,
        "save_every": None,
    }
    train(load_config(TrainConfig, values))
    return root / "run"


@pytest.fixture
def held_against(run: Path, tmp_path: Path) -> Callable[..., DoctorReport]:
    """held_against(change) -> the report of new data, each episode of which was changed."""

    def make(change: Change | None = None, spec: Spec = SPEC) -> DoctorReport:
        return doctor(run, data=write(tmp_path / "new", 16, 1000, change, spec))

    return make


def grave(report: DoctorReport) -> dict[str, str]:
    """check -> message of errors and warnings."""
    found = [*report.of("error"), *report.of("warning")]
    return {symptom.check: symptom.message for symptom in found}


def test_a_healthy_run_and_new_data_of_its_robot_have_no_finding(run, held_against):
    own, new = doctor(run), held_against()
    assert grave(own) == grave(new) == {}
    assert own.ok
    assert own.measured["error_held_out"] < 0.5 * own.measured["error_constant_action"]
    assert own.measured["error_rise_instruction"] > 0.1
    assert {"fit", "instruction_used", "normalisation", "delay"} <= set(own.ran)
    assert "env" in own.skipped
    assert new.measured["error_data"] < new.measured["error_data_constant_action"]


def _times(*factors: float) -> Change:
    return lambda e: {"state": e.state * np.float32(factors)}


def _one_fault(e: Episode) -> dict[str, Any]:
    state = e.state.copy()
    state[3, 3] = 1e30
    return {"state": state}


FAULTS: dict[str, tuple[Change, str, str]] = {
    "degrees": (_times(57.2958, 1, 1, 57.2958, 57.2958), "normalisation", "degrees where radians"),
    "metres": (_times(0.001, 1, 1, 0.001, 0.001), "normalisation", "metres where millimetres"),
    "stuck sensor": (_times(1, 1, 1, 0, 0), "dead_dimensions", "goal_x, goal_y"),
    "sensor fault": (_one_fault, "outliers", "'goal_x' is 1e+30 in episode 0"),
    "gripper inverted": (
        lambda e: {"actions": e.actions * np.float32([1, -1])},
        "action_scale",
        "'gripper' has the other sign",
    ),
    "half the scale": (
        lambda e: {"actions": e.actions * np.float32([0.3, 1])},
        "action_scale",
        "'dx' of the data is 0.3",
    ),
    "a step late": (
        lambda e: {"actions": np.roll(e.actions, 1, axis=0)},
        "delay",
        "recorded 1 step late",
    ),
    "every third step": (
        lambda e: {
            name: getattr(e, name)[::3] for name in ("state", "actions", "rewards", "success")
        },
        "control_rate",
        "times as far at each step",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_the_data(held_against, name):
    change, check, message = FAULTS[name]
    assert message in grave(held_against(change)).get(check, "")


def test_names_rates_and_limits_of_another_robot(held_against):
    other = dataclasses.replace(
        SPEC,
        state_names=("y", "x", *STATE[2:]),
        control_hz=20.0,
        action_low=(-3.0, -1.0),
        action_high=(3.0, 1.0),
    )
    found = grave(held_against(lambda e: {"actions": e.actions * np.float32([3, 1])}, other))
    assert "state_names are ['y', 'x'" in found["spec"]
    assert "runs at 20 Hz, the policy learned at 10 Hz" in found["control_rate"]
    assert "dx (" in found["limits"]


def test_data_of_other_dimensions_are_told_and_the_rest_is_looked_at(held_against):
    narrow = dataclasses.replace(SPEC, state_names=STATE[:3])
    report = held_against(lambda e: {"state": e.state[:, :3]}, narrow)
    assert "spec" in grave(report)
    assert "does not fit the policy" in report.skipped["forward"]
    assert "fit" in report.ran


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_statistics_of_another_robot(copied):
    policy = load_policy(copied / "policy")
    policy.state_mean += 1
    policy.state_std *= 4
    policy.save_pretrained(copied / "policy")
    (symptom, *_) = [s for s in doctor(copied).symptoms if s.check == "normalisation"]
    assert symptom.severity == "error"
    assert "x" in symptom.measured["dimensions"]


def test_weights_that_are_no_numbers(copied):
    policy = load_policy(copied / "policy")
    with torch.no_grad():
        next(policy.parameters()).view(-1)[0] = float("nan")
    policy.save_pretrained(copied / "policy")
    with pytest.raises(UserError, match="NaN"):
        doctor(copied)


def test_an_instruction_that_is_not_read(copied):
    policy = load_policy(copied / "policy")
    with torch.no_grad():
        # columns of the first layer that read the sentence
        policy.trunk[0].weight[:, SPEC.state_dim :] = 0
    policy.save_pretrained(copied / "policy")
    assert "does not use the instruction" in grave(doctor(copied))["instruction_used"]


def test_a_run_that_was_cut_short(run, tmp_path):
    values = json.loads(
        json.dumps(load_config(TrainConfig, run / "config.yaml").model_dump(mode="json"))
    )
    values |= {"out": str(tmp_path / "short"), "steps": 4, "optim": {"lr": 1e-5, "warmup_steps": 0}}
    train(load_config(TrainConfig, values))
    config = tmp_path / "short" / "config.yaml"
    config.write_text(config.read_text().replace("steps: 4\n", "steps: 400\n"))
    found = grave(doctor(tmp_path / "short"))
    assert "stopped at step 4 of 400" in found["progress"]
    assert "hardly anything was learned" in found["fit"]


def test_a_policy_alone(run, tmp_path):
    alone = Path(shutil.copytree(run / "policy", tmp_path / "alone"))
    report = doctor(alone)
    assert (report.ok, report.data) == (True, None)
    assert "--data" in report.skipped["data"]
    new = doctor(alone, data=write(tmp_path / "new", 16, 1000, FAULTS["gripper inverted"][0]))
    assert "action_scale" in grave(new)


def test_data_that_moved(copied, run, tmp_path):
    shutil.copytree(run.parent / "seen", tmp_path / "moved" / "seen")
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace(str(run.parent / "seen"), "nowhere/seen"))
    assert "--data" in doctor(copied).skipped["data"]
    report = doctor(copied, data=tmp_path / "moved" / "seen")
    assert report.ok
    assert "error_held_out" in report.measured


def test_nothing_there(tmp_path):
    with pytest.raises(UserError):
        doctor(tmp_path / "nowhere")


def test_units_by_their_factor():
    assert unit_of(57.3).startswith("degrees")
    assert unit_of(1 / 57.3) == "radians where degrees were learned"
    assert unit_of(0.001) == "metres where millimetres were learned"
    assert unit_of(2.0) == ""


def test_every_check_says_what_it_looks_at():
    for name, check in doctor_checks().items():
        assert check.looks_at, name
        assert check.__doc__, name


def test_the_command(run, tmp_path):
    data = write(tmp_path / "new", 16, 1000, FAULTS["gripper inverted"][0])
    healthy = CliRunner().invoke(app, ["doctor", str(run)])
    assert (healthy.exit_code, "0 errors, 0 warnings" in healthy.output) == (0, True)
    shown = CliRunner().invoke(app, ["doctor", str(run), "--data", str(data)])
    assert shown.exit_code == 1
    assert "open and closed are swapped" in shown.output
    found = CliRunner().invoke(app, ["doctor", str(run), "--data", str(data), "--json"])
    report = json.loads(found.stdout)
    assert report["symptoms"][0]["check"] == "action_scale"
    assert report["ok"] is False
    assert CliRunner().invoke(app, ["doctor", str(tmp_path / "nowhere")]).exit_code == 2


def test_it_is_a_function_of_the_package():
    assert vla.doctor is doctor
