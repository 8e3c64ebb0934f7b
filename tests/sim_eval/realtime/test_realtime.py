"""`vla eval realtime`: motion by hand, latency 0 against an ordinary evaluation, repeats, refusals."""

import json
from pathlib import Path

import numpy as np
import point_env
import pytest
import torch
from typer.testing import CliRunner

from vla.cli import app
from vla.config import ConfigError, UserError, load_config
from vla.control.realtime import RealtimeSettings
from vla.models.policies.mlp import MLPConfig
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.evaluation import EvalConfig, evaluate
from vla.sim_eval.realtime.motion import idle_of, motion_of, seams_of
from vla.sim_eval.realtime.sweep import RealtimeConfig, evaluate_realtime
from vla.types import Spec

# --- motion -------------------------------------------------------------------------------------------

SPEC = Spec({}, (), ("x",), (-2.0,), (2.0,), 10)


def test_seams_and_waits_by_hand():
    late = RealtimeSettings(delay=1)
    # chunks are asked for at 0, 2, 4, 6 and executed from 0, 3, 5, 7
    assert seams_of(8, late, 2) == [3, 5, 7]
    assert idle_of(8, late, 2) == []
    hold = RealtimeSettings(delay=1, method="hold")
    # 2 steps, 1 of waiting, 2 steps, 1 of waiting, 2 steps
    assert seams_of(8, hold, 2) == [2, 3, 5, 6]
    assert idle_of(8, hold, 2) == [2, 5]
    for method in ("switch", "hold"):
        at_once = RealtimeSettings(delay=0, method=method)
        assert seams_of(8, at_once, 2) == [2, 4, 6]
        assert idle_of(8, at_once, 2) == []


def test_motion_by_hand():
    """In half ranges of 2: 0, 0.5, 1.5, 0."""
    actions = np.array([[0.0], [1.0], [3.0], [0.0]])
    found = motion_of(actions, SPEC, RealtimeSettings(delay=0), 2)
    assert found.max_jump == 1.0  # at step 2; that at step 3 is within a chunk
    # differences 0.5, 1, -1.5; second ones 0.5, -2.5; third one -3
    assert found.jerk == pytest.approx((0.25 + 6.25) / 2)
    targets = RealtimeSettings(delay=0, action_kind="absolute")
    assert motion_of(actions, SPEC, targets, 2).jerk == pytest.approx(9)


def test_motion_of_a_short_episode():
    found = motion_of(np.zeros((1, 1)), SPEC, RealtimeSettings(delay=1), 2)
    assert (found.idle_steps, found.max_jump, found.jerk) == (0, 0.0, None)


# --- the sweep ----------------------------------------------------------------------------------------


def settings(tmp_path, **changes):
    values = {
        "env": {"type": "test_point", "horizon": 24, "image_size": 16},
        "episodes_per_task": 3,
        "replan_every": 2,
        "workers": 0,
        "out": str(tmp_path / "out"),
        "policy": "here",
        "latency": 0.1,
    }
    return load_config(RealtimeConfig, {**values, **changes})


class Drawer(torch.nn.Module):
    """Goes to a target that it sees, or a little past it; draws which for every chunk."""

    history = 1

    def __init__(self, chunk=4):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(3.0))
        self.spec = point_env.PointConfig(image_size=16).spec()
        self.chunk = chunk

    def act(self, observation, memory):
        image = observation.images["top"].float()
        wanted = torch.tensor([2 if "blue" in text else 0 for text in observation.instruction])
        rows = torch.arange(len(wanted))
        mask = (image[rows, :, :, wanted] - image[rows, :, :, 2 - wanted]).clamp(min=60) - 60
        axis = torch.linspace(-1.2, 1.2, image.shape[1])
        weight = mask.sum((1, 2)) + 1e-6
        target = torch.stack(
            [(mask.sum(1) * axis).sum(1) / weight, -(mask.sum(2) * axis).sum(1) / weight], 1
        )
        action = self.gain * (target - observation.state)
        past = 1 + 0.2 * torch.randn(len(action), 1, 1)
        return (past * action[:, None]).clamp(-1, 1).expand(-1, self.chunk, -1).detach(), memory


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("realtime")
    config = settings(out, latency=[0, 0.1, 0.2], method=["blend", "switch"])
    return evaluate_realtime(Drawer(), config, name="drawer", progress=False), config


def episodes_of(config, folder):
    return json.loads((load_folder(config) / folder / "motion.json").read_text())["episodes"]


def load_folder(config):
    return Path(config.out)


def test_rows_of_the_table(swept):
    found, config = swept
    rows = [(row.method, row.latency, row.delay) for row in found.conditions]
    expected = [("no delay", 0, 0)]
    for latency, delay in ((0, 0), (0.1, 1), (0.2, 2)):
        expected += [(method, latency, delay) for method in ("hold", "blend", "switch")]
    assert rows == expected
    assert found.conditions[0].against_no_delay is None
    assert all(row.against_no_delay is not None for row in found.conditions[1:])
    assert all((row.against_hold is None) == (row.method == "hold") for row in found.conditions[1:])
    saved = json.loads((load_folder(config) / "realtime.json").read_text())
    assert len(saved["conditions"]) == 10
    assert saved["settings"]["chunk"] == 4


def test_no_latency_is_an_ordinary_evaluation(swept, tmp_path):
    _, config = swept
    values = {key: getattr(config, key) for key in EvalConfig.model_fields}
    plain = EvalConfig(**{**values, "out": str(tmp_path / "plain")})
    episodes = evaluate(Drawer(), plain, progress=False).episodes
    for folder in ("no_delay", "hold-0", "blend-0", "switch-0"):
        assert Results.load(load_folder(config) / folder).episodes == episodes


def test_only_holding_waits(swept):
    found, _ = swept
    idle = {(row.method, row.delay): row.idle_steps for row in found.conditions}
    assert idle["hold", 1] > 0
    assert idle["hold", 2] > idle["hold", 1]
    assert {idle[method, d] for method in ("blend", "switch") for d in (0, 1, 2)} == {0}


def test_a_blend_jumps_less_than_a_switch(swept):
    found, _ = swept
    jump = {(row.method, row.delay): row.max_jump for row in found.conditions}
    assert jump["blend", 1] < jump["switch", 1] < jump["hold", 1]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_again_and_with_workers(swept, tmp_path, workers):
    found, config = swept
    again = settings(tmp_path, latency=0.1, method="blend", workers=workers)
    other = evaluate_realtime(Drawer(), again, name="drawer", progress=False)
    row = next(row for row in found.conditions if (row.method, row.delay) == ("blend", 1))
    same = next(row for row in other.conditions if row.method == "blend")
    assert (row.successes, row.max_jump, row.jerk) == (same.successes, same.max_jump, same.jerk)
    assert episodes_of(config, "blend-0.1") == episodes_of(again, "blend-0.1")


def test_conditions_that_are_complete_are_not_played_again(swept):
    _, config = swept
    marks = sorted(load_folder(config).glob("*/motion.json"))
    before = [mark.stat().st_mtime_ns for mark in marks]
    marks[0].unlink()
    evaluate_realtime(Drawer(), config, name="drawer", progress=False)
    after = [mark.stat().st_mtime_ns for mark in marks]
    assert after[0] != before[0]
    assert after[1:] == before[1:]


@pytest.fixture(scope="module")
def flow():
    """A policy that has learned nothing; its actions are what its flow says."""
    torch.manual_seed(0)
    spec = point_env.PointConfig(image_size=16).spec()
    head = {"type": "flow", "hidden": 16, "depth": 1, "integration_steps": 4, "prefix_max": 1}
    policy = MLPConfig(chunk=4, hidden=16, language=None, head=head).build(spec)
    policy.fit(2 * torch.rand(100, 2) - 1, torch.randn(100, 2), ["Go to the red square"])
    return policy.eval()


def test_auto_names_what_it_has_chosen(flow, tmp_path):
    config = settings(tmp_path, latency=[0.1, 0.2], episodes_per_task=1)
    found = evaluate_realtime(flow, config, progress=False)
    rows = [(row.method, row.delay) for row in found.conditions[1:]]
    assert rows == [("hold", 1), ("prefix", 1), ("hold", 2), ("guidance", 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": 0.2, "method": "prefix"}, r"at most 1 actions under way"),
        ({"latency": 0.3}, r"set method=hold, or train the policy with policy\.chunk=6"),
        ({"latency": 0.2, "replan_every": 1}, r"set replan_every=2"),
        ({"ensemble": 0.0, "replan_every": 1}, r"set method=ensemble"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(flow, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate_realtime(flow, settings(tmp_path, **changes), progress=False)
    assert not (tmp_path / "out").exists()


def test_a_baseline_is_never_late(tmp_path):
    with pytest.raises(UserError, match="acts inside the simulation and is never late"):
        evaluate_realtime("expert", settings(tmp_path), progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": -0.1}, "latency"),
        ({"latency": []}, "expected one or several, each once"),
        ({"method": ["blend", "blend"]}, "expected one or several, each once"),
        ({"method": "average"}, "method"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, **changes)


def test_the_command(flow, tmp_path):
    flow.save_pretrained(tmp_path / "policy")
    file = tmp_path / "eval.yaml"
    file.write_text(
        f"env: {{type: test_point, horizon: 8, image_size: 16}}\npolicy: {tmp_path}/policy\n"
        f"episodes_per_task: 1\nreplan_every: 2\nworkers: 0\nout: {tmp_path}/out\n"
    )
    texts = ["eval", "realtime", str(file), "latency=[0.1]", "method=[bid, switch]"]
    shown = CliRunner().invoke(app, texts)
    assert shown.exit_code == 0, shown.output
    for word in ("no delay", "hold", "bid", "switch", "realtime.json"):
        assert word in shown.output
    refused = CliRunner().invoke(app, [*texts, "policy=random"])
    assert refused.exit_code == 2
