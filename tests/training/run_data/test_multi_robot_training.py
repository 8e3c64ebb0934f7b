"""One training on three robots' datasets: each is learned, logged by itself, resumed exactly, and taken out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from mixed_robots_toy import (
    CAMERAS,
    POLICY,
    SPECS,
    multi_robot_config,
    two_processes_config,
    write_robot,
)
from typer.testing import CliRunner

from vla.cli import app
from vla.config import ConfigError, UserError
from vla.data.loading.multi_robot import RobotBatch, joint_spec
from vla.models import RT1, load_policy
from vla.models.policies.multi_robot import MultiRobotConfig, MultiRobotPolicy
from vla.recipes.evaluate import load_actor
from vla.training import RunResult, TrainConfig, train
from vla.training.losses import robot_means
from vla.training.metrics import Stopwatch
from vla.training.objective import Learner
from vla.training.objectives.bc import BC
from vla.training.step import backward

HELPERS = Path(__file__).parents[2] / "helpers"


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """With several threads, oneDNN adds up the gradients of a convolution of a single pixel in whichever order ends first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def robots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("robots")
    for name in SPECS:
        write_robot(root / name, name)
    return root


@pytest.fixture(scope="module")
def run(robots: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(multi_robot_config(robots, tmp_path_factory.mktemp("runs") / "run"))


def test_each_robot_is_learned_and_logged_by_itself(run: RunResult) -> None:
    logged = lines(run.out)
    for name in SPECS:
        losses = [line[f"loss/{name}"] for line in logged if f"loss/{name}" in line]
        assert sum(losses[-3:]) < 0.93 * sum(losses[:3]), name
    for line in logged:
        parts = [line[f"share/{name}"] * line.get(f"loss/{name}", 0.0) for name in SPECS]
        assert sum(parts) == pytest.approx(line["loss"], rel=1e-4)
        assert sum(line[f"share/{name}"] for name in SPECS) == pytest.approx(1)
    # 6, 3 and 2 of the episodes of 10 steps are trained on; 12 steps of 8 windows in proportion
    last = logged[-1]
    drawn = [last[f"epochs/{name}"] * size for name, size in zip(SPECS, (60, 30, 20), strict=True)]
    assert drawn == pytest.approx([12 * 8 - 26 - 17, 26, 17])  # 26.2 and 17.5
    scores = [last[f"validation/{name}/loss"] for name in SPECS]
    assert last["validation/loss"] == pytest.approx(
        sum(s * n / 110 for s, n in zip(scores, (60, 30, 20), strict=True))
    )
    assert {"validation/humanoid/action_error/a43", "validation/gripper/action_error/a3"} <= set(
        last
    )
    assert "validation/gripper/action_error/a4" not in last


def test_a_run_leaves_the_policy_for_all_and_one_for_each(run: RunResult) -> None:
    whole = load_policy(run.out / "policy")
    assert isinstance(whole, MultiRobotPolicy)
    assert whole.card["data"]["datasets"]["humanoid"].startswith(
        "humanoid: 20 frames, 18.2% of the batches"
    )
    for name, spec in SPECS.items():
        alone = load_policy(run.out / "policies" / name)
        assert type(alone) is RT1
        assert alone.spec.action_names == spec.action_names
        # of the datasets' cameras those that the policy looks through
        assert list(alone.spec.cameras) == list(
            (CAMERAS[name] or {c: c for c in spec.cameras}).values()
        )
        observation = alone.spec.fake_observation(1)
        observation.instruction[:] = ["go left"]
        actions, _ = alone.act(observation)
        assert torch.equal(actions, whole.robot(name).act(observation)[0])
    assert torch.equal(whole.robot("arm").state_mean, whole.part("arm").state_mean)
    assert float(whole.part("arm").state_mean.mean()) == pytest.approx(
        3.0, abs=0.8
    )  # rng.normal(len("arm"))


def test_a_robot_is_taken_out_on_the_command_line(run: RunResult, tmp_path: Path) -> None:
    def vla(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return done.exit_code, " ".join(done.output.split())

    checkpoint = run.out / "checkpoints" / "step-000006"
    assert vla("policy", "extract", checkpoint, "gripper", tmp_path / "gripper")[0] == 0
    assert type(load_policy(tmp_path / "gripper")) is RT1
    assert (
        "is there already" in vla("policy", "extract", checkpoint, "arm", tmp_path / "gripper")[1]
    )
    code, text = vla("policy", "extract", checkpoint, "hand", tmp_path / "hand")
    assert (code, "no robot 'hand' in this policy; there are: arm, gripper, humanoid" in text) == (
        2,
        True,
    )
    assert (
        "of one robot already (rt1)"
        in vla("policy", "extract", run.out / "policies" / "arm", "arm", tmp_path / "x")[1]
    )
    with pytest.raises(
        UserError, match=r"for the robots arm, gripper, humanoid and cannot be evaluated"
    ):
        load_actor(str(run.out / "policy"))


def test_a_robot_that_was_taken_out_is_fine_tuned_as_any_policy(
    run: RunResult, robots: Path, tmp_path: Path
) -> None:
    values = {
        "out": str(tmp_path / "tuned"),
        "init_from": str(run.out / "policies" / "arm"),
        "data": {"path": str(robots / "arm"), "validation_fraction": 0},
        "steps": 2,
        "batch_size": 4,
        "log_every": 1,
    }
    tuned = train(TrainConfig.model_validate(values))
    assert type(tuned.policy) is RT1
    assert lines(tuned.out)[0]["loss"] < 0.95 * lines(run.out)[0]["loss/arm"]
    assert "loss/arm" not in lines(tuned.out)[0]


def test_a_run_that_was_cut_off_resumes_exactly(
    run: RunResult, robots: Path, tmp_path: Path
) -> None:
    train(multi_robot_config(robots, tmp_path / "run", max_minutes=1e-9))
    again = train(multi_robot_config(robots, tmp_path / "run"), resume=True)
    assert again.step == 12
    timings = ("seconds/", "frames_per_s", "eta")
    whole, parts = (
        [{k: v for k, v in line.items() if not k.startswith(timings)} for line in lines(out)]
        for out in (run.out, again.out)
    )
    assert parts[0].pop("validation/loss") > 0  # of the checkpoint at which it was cut off
    parts[0] = {k: v for k, v in parts[0].items() if not k.startswith("validation/")}
    assert parts == whole
    weights = "policy/model.safetensors"
    assert (again.out / weights).read_bytes() == (run.out / weights).read_bytes()


def test_a_run_goes_on_from_the_policy_of_another(
    run: RunResult, robots: Path, tmp_path: Path
) -> None:
    changes = {
        "policy": None,
        "init_from": str(run.out / "policy"),
        "steps": 1,
        "validate_every": None,
    }
    more = train(multi_robot_config(robots, tmp_path / "more", **changes))
    assert more.metrics["loss"] < lines(run.out)[0]["loss"]
    with pytest.raises(ConfigError, match=r"init_from"):
        train(
            multi_robot_config(
                robots,
                tmp_path / "one",
                **changes | {"init_from": str(run.out / "policies" / "arm")},
            )
        )


def test_a_step_is_the_mean_over_the_valid_steps_of_all_robots() -> None:
    """However the robots' windows are divided, and with zeros for the one that is absent."""
    torch.manual_seed(0)
    robots = {name: {"spec": SPECS[name].to_dict(), "cameras": CAMERAS[name]} for name in SPECS}
    policy = POLICY | {"dropout": 0.0, "random_shift": [0, 0]}
    config = MultiRobotConfig.model_validate({"policy": policy, "robots": robots})
    several = config.build(joint_spec(config.specs)).train()
    several.language.preload({f"do task {i}": torch.randn(384) / 20 for i in range(4)})
    learner = Learner(several, BC())
    batches = [RobotBatch(name, SPECS[name].fake_batch(4, 2, 2)) for name in ("arm", "gripper")]
    batches[0].batch.mask[:3, 0] = False  # the arm has five valid steps, the gripper eight
    divided = [
        RobotBatch("arm", batches[0].batch.select(np.array(rows))) for rows in ([0], [1, 2, 3])
    ]
    found = []
    for parts in (batches, [divided[0], batches[1], divided[1]]):
        learner.zero_grad()
        watch = Stopwatch(torch.device("cpu"))
        numbers = backward(
            learner, learner.objective, parts, Accelerator(cpu=True), watch, bf16=False, clip=None
        )
        found.append((numbers, {name: p.grad for name, p in learner.named_parameters()}))
    (whole, expected), (parts_of_it, gradients) = found
    assert parts_of_it == pytest.approx(whole, rel=1e-5)
    assert [whole[f"share/{name}"] for name in SPECS] == pytest.approx([5 / 13, 8 / 13, 0])
    assert whole["loss/arm"] + whole["loss/gripper"] == pytest.approx(whole["loss"])
    assert "loss/humanoid" not in whole
    with torch.no_grad():
        means = [learner(batch, robot=name)[0] for name, batch in batches]
    assert whole["loss"] == pytest.approx(float(5 / 13 * means[0] + 8 / 13 * means[1]))
    for name, gradient in expected.items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-7)
        if name.startswith("policy.robots.humanoid"):
            assert not gradient.any()


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(robots: Path, tmp_path: Path) -> None:
    """Processes have different robots in their parts of a batch; parameters of absent ones take part all the same."""
    done = subprocess.run(
        [sys.executable, str(HELPERS / "two_processes_multi_robot.py"), str(robots), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HELPERS}:{HELPERS.parents[1]}"},
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    train(two_processes_config(robots, tmp_path / "one"))
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert len(one) == len(two) == 3
    assert "loss/humanoid" not in one[0]  # in one step a robot is in nobody's part
    for a, b in zip(one, two, strict=True):
        compared = [
            key
            for key in a
            if key.startswith(("loss", "share/", "grad_norm", "epochs/", "validation/"))
        ]
        assert {key: b[key] for key in compared} == pytest.approx(
            {key: a[key] for key in compared}, rel=1e-4
        )
        assert set(a) == set(b)


def test_data_that_cannot_be_learned_together_is_refused(robots: Path, tmp_path: Path) -> None:
    def problem(*, data: dict[str, Any] | None = None, **changes: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            train(multi_robot_config(robots, tmp_path / "run", data=data, **changes))
        return str(caught.value)

    def datasets(**changes: Any) -> dict[str, Any]:
        entries = {name: {"path": str(robots / name), "cameras": CAMERAS[name]} for name in SPECS}
        return {"multi_robot": entries | {"gripper": entries["gripper"] | changes}}

    assert "objective: iql judges actions of one robot" in problem(objective={"type": "iql"})
    assert "data.multi_robot.gripper.cameras.front" in problem(
        data=datasets(cameras={"front": "top"})
    )
    assert "it has: corner, unused" in problem(data=datasets(cameras={"front": "top"}))
    text = problem(data=datasets(cameras=None), policy=POLICY | {"cameras": ["front"]})
    assert "none of the slots corner, unused is in policy.cameras (front)" in text
    assert "batch_size: 3 is too small for 3 datasets of these shares; use at least 4" in problem(
        batch_size=3
    )
    assert "data.multi_robot.gripper: data.validation_fraction" in problem(
        data={"validation_fraction": 0.9}
    )
    assert "data.task_weights: 'go up' matches nothing" in problem(
        data={"task_weights": {"go up": 2.0}}
    )

    def invalid(data: dict[str, Any], **changes: Any) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            multi_robot_config(robots, tmp_path / "run", data=data, **changes)
        return str(caught.value)

    assert "multi_robot.arm.weight: is missing" in invalid(datasets(weight=2.0))
    assert "name one dataset with path" in invalid({"path": "somewhere"})
    assert "name one dataset with path" in invalid({"multi_robot": {}})
    assert "replay: is for one robot" in invalid({"replay": [{"path": "somewhere", "weight": 0.1}]})
    assert "transfer: carries one robot" in invalid({}, init_from="somewhere", transfer={})
    weighted = {name: {"path": str(robots / name), "weight": 1} for name in SPECS}
    assert "multi_robot_temperature: is for several robots without weights" in invalid(
        {"multi_robot": weighted, "multi_robot_temperature": 2}
    )


def test_means_of_robots_are_over_the_steps_that_they_had() -> None:
    # two batches of 8 valid steps: robot a has 6 and 2 of them, with losses of 1 and 3; b has the others; c has none
    means = {
        "loss/a": (6 * 1 + 2 * 3) / 16,
        "share/a": 8 / 16,
        "loss/b": 0.25,
        "share/b": 0.5,
        "loss/c": 0.0,
        "share/c": 0.0,
    }
    found = robot_means(means | {"loss": 1.0}, ["a", "b", "c"])
    assert found == {
        "loss/a": 1.5,
        "share/a": 0.5,
        "loss/b": 0.5,
        "share/b": 0.5,
        "share/c": 0.0,
        "loss": 1.0,
    }
