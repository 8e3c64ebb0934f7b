from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training_toy
from training_toy import file_size_limit, toy_config

from vla.config import ConfigError, load_config
from vla.models.policy import Policy, load_policy
from vla.training import (
    CheckpointError,
    TrainConfig,
    TrainingDivergedError,
    newest_checkpoint,
    train,
)


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_a_run_directory(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, sys.argv = sys.argv, ["notebook", "--never=read"]
    try:
        result = train(toy_config(data, tmp_path / "run", steps=60, save_every=20))
    finally:
        sys.argv = argv
    out = result.out
    assert {p.name for p in out.iterdir()} == {
        "config.yaml",
        "versions.json",
        "data.json",
        "metrics.jsonl",
        "checkpoints",
        "policy",
    }
    assert [p.name for p in sorted((out / "checkpoints").iterdir())][-2:] == [
        "step-000040",
        "step-000060",
    ]

    logged = lines(out)
    assert [line["step"] for line in logged] == list(range(1, 61))
    assert sum(line["loss"] for line in logged[-5:]) < 0.3 * sum(
        line["loss"] for line in logged[:5]
    )
    timings = {f"seconds/{phase}" for phase in ("data", "forward", "backward", "optimizer", "step")}
    assert {"lr", "grad_norm", "frames_per_s", "eta"} | timings <= set(logged[0])
    assert logged[59]["validation/action_error"] < 0.6 * logged[9]["validation/action_error"]
    assert {"validation/loss", "validation/action_error/dx", "validation/action_error/dy"} <= set(
        logged[59]
    )
    assert result.metrics["validation/loss"] == logged[59]["validation/loss"]

    assert load_config(training_toy.ToyTrainConfig, out / "config.yaml") == toy_config(
        data, out, steps=60, save_every=20
    )
    assert {"python", "torch", "numpy", "transformers", "timm", "accelerate", "vla", "git"} <= set(
        json.loads((out / "versions.json").read_text())
    )
    # One plain line per log where no terminal is.
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 61
    assert printed[30].startswith("step 30/60  loss ")

    assert result.step == 60
    assert not result.policy.training
    loaded = load_policy(out / "policy")
    for (name, weight), (_, found) in zip(
        result.policy.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert torch.equal(weight, found), name
    assert loaded.card["data"] == {"dataset": "data", "episodes": 6, "frames": 72}
    assert not [p for p in out.rglob("*") if p.suffix in (".pt", ".pkl", ".bin", ".pth")]


def test_the_mean_of_the_weights_is_what_is_deployed(data: Path, tmp_path: Path) -> None:
    averaged = train(toy_config(data, tmp_path / "ema", steps=10, ema_decay=0.9))
    raw = train(toy_config(data, tmp_path / "raw", steps=10, ema_decay=None))
    for a, b in zip(lines(averaged.out), lines(raw.out), strict=True):
        assert a["loss"] == b["loss"]
    assert not torch.equal(averaged.policy.out.weight, raw.policy.out.weight)
    checkpoint = newest_checkpoint(raw.out / "checkpoints")
    assert checkpoint is not None
    assert not [name for name in checkpoint.tensors() if name.startswith("raw/")]
    checkpoint = newest_checkpoint(averaged.out / "checkpoints")
    assert checkpoint is not None
    assert torch.equal(checkpoint.tensors()["raw/out.weight"], raw.policy.out.weight)
    assert torch.equal(load_policy(checkpoint.folder).out.weight, averaged.policy.out.weight)


def test_rt1_trains_resumes_and_loads(data: Path, tmp_path: Path) -> None:
    policy = {
        "type": "rt1", "trunk": "efficientnet_b0", "stride": 16, "norm": "group", "history": 2, "width": 32,
        "depth": 1, "heads": 2, "key_dim": 16, "language_dim": 32,
    }  # fmt: skip

    def config(out: Path, **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "out": str(out),
            "data": {"path": str(data)},
            "policy": policy,
            "batch_size": 4,
        }
        return TrainConfig.model_validate(
            values | {"steps": 6, "log_every": 1, "save_every": 3, "validate_every": 6} | changes
        )

    whole = train(config(tmp_path / "whole"))
    train(config(tmp_path / "parts", max_minutes=1e-9))
    assert lines(tmp_path / "parts")[-1]["step"] == 1  # stopped cleanly after one step, and saved
    resumed = train(config(tmp_path / "parts"), resume=True)
    assert [a["loss"] for a in lines(whole.out)] == [b["loss"] for b in lines(resumed.out)]
    assert "token_accuracy" in lines(whole.out)[0]
    observation = training_toy.SPEC.fake_observation(2)
    torch.testing.assert_close(
        load_policy(whole.out / "policy").act(observation)[0],
        load_policy(resumed.out / "policy").act(observation)[0],
    )


def test_a_finished_run_resumes_to_the_same_policy(data: Path, tmp_path: Path) -> None:
    first = train(toy_config(data, tmp_path / "run", steps=5))
    again = train(toy_config(data, tmp_path / "run", steps=5), resume=True)
    assert again.step == 5
    assert torch.equal(first.policy.out.weight, again.policy.out.weight)
    assert len(lines(first.out)) == 5


def test_a_run_is_not_overwritten_and_not_resumed_with_another_config(
    data: Path, tmp_path: Path
) -> None:
    train(toy_config(data, tmp_path / "run", steps=5))
    with pytest.raises(ConfigError, match="holds a run already"):
        train(toy_config(data, tmp_path / "run", steps=5))
    with pytest.raises(ConfigError) as caught:
        train(
            toy_config(data, tmp_path / "run", steps=6, optim={"lr": 0.5, "warmup_steps": 3}),
            resume=True,
        )
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["optim.lr", "steps"]
    assert "is 0.5, the run in" in caught.value.problems[0]
    # What does not change the losses may differ.
    train(toy_config(data, tmp_path / "run", steps=5, save_every=2, keep_last=1), resume=True)


def test_divergence_stops_with_step_tasks_and_checkpoint(data: Path, tmp_path: Path) -> None:
    optim = {"lr": 1e25, "warmup_steps": 0, "clip_norm": None}
    config = toy_config(
        data, tmp_path / "run", optim=optim, save_every=1, validate_every=None, ema_decay=None
    )
    with pytest.raises(TrainingDivergedError) as caught:
        train(config)
    message = str(caught.value)
    done = len(lines(tmp_path / "run"))
    assert message.startswith(f"step {done + 1}: the ")
    assert "'go left', 'go right'" in message
    assert f"step-{done:06d}" in message
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert newest.step == done
    assert not (tmp_path / "run" / "policy").exists()


def test_a_full_disk_keeps_the_older_checkpoint_and_the_run_goes_on_later(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = toy_config(data, out, steps=10, save_every=5, evaluate_every=6)
    limit = file_size_limit(4000)  # the policy has more than 4000 bytes, a metrics line less

    def fill_the_disk(policy: Policy, step: int) -> dict[str, float]:
        limit.__enter__()
        return {}

    try:
        with pytest.raises(
            CheckpointError,
            match=r"checkpoint of step 10 was not written.*step-000005 is untouched",
        ):
            train(config.model_copy(update={"log_every": 100}), evaluate=fill_the_disk)
    finally:
        limit.__exit__(None, None, None)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-000005"]
    assert train(config, evaluate=lambda policy, step: {}, resume=True).step == 10


def test_evaluate_sees_the_deployed_policy(data: Path, tmp_path: Path) -> None:
    seen = []

    def evaluate(policy: Policy, step: int) -> dict[str, float]:
        actions, _ = policy.eval()(training_toy.SPEC.fake_batch(1, 2)).actions.mode().shape[:2]
        seen.append((step, policy.training, actions))
        return {"success": step / 10}

    result = train(
        toy_config(data, tmp_path / "run", steps=10, evaluate_every=5), evaluate=evaluate
    )
    assert seen == [(5, False, 1), (10, False, 1)]
    assert [line.get("evaluation/success") for line in lines(result.out)][4:10:5] == [0.5, 1.0]
    with pytest.raises(ConfigError, match="evaluate_every"):
        train(toy_config(data, tmp_path / "other", evaluate_every=5))


def test_init_from_keeps_weights_and_normalisation(data: Path, tmp_path: Path) -> None:
    first = train(toy_config(data, tmp_path / "first", steps=30))
    second = train(
        toy_config(
            data,
            tmp_path / "second",
            steps=3,
            policy=None,
            init_from=str(first.out / "policy"),
            seed=5,
        )
    )
    assert lines(second.out)[0]["loss"] < 0.5 * lines(first.out)[0]["loss"]
    assert torch.equal(first.policy.state_mean, second.policy.state_mean)
    with pytest.raises(ConfigError, match=r"policy\.history: is 3, the policy in .* has 2"):
        train(
            toy_config(
                data,
                tmp_path / "third",
                policy={"history": 3, "chunk": 2},
                init_from=str(first.out / "policy"),
            )
        )


def test_tensorboard_and_missing_wandb(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    result = train(toy_config(data, tmp_path / "run", steps=5, trackers=["tensorboard"]))
    assert list((result.out / "tensorboard").rglob("events.out.tfevents*"))
    monkeypatch.setattr("vla.training.metrics.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="'wandb' is not installed; run: pip install wandb"):
        train(toy_config(data, tmp_path / "other", trackers=["wandb"]))
    assert not (tmp_path / "other").exists()


def test_config_mistakes_name_their_key() -> None:
    base = {"out": "o", "data": {"path": "d"}, "policy": {"type": "rt1"}, "steps": 5}
    for change, message in (
        ({"optim": {"lr": -1}}, r"optim\.lr"),
        ({"steps": 0}, "steps"),
        ({"objective": {"type": "bcc"}}, "objective"),
        ({"policy": None}, "policy: is required"),
        ({"batch_size": 9, "grad_accumulation": 2}, "batch_size: 9 does not divide .* use 10"),
        (
            {"trackers": ["tensorbord"]},
            r"trackers\.0: no 'tensorbord' \(did you mean 'tensorboard'",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(TrainConfig, base | change)
