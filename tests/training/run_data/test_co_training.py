"""Image-text pairs beside robot data: what is drawn, what is learned, and that resuming changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_toy
import vlm_toys
from accelerate import Accelerator
from PIL import Image

from vla.config import ConfigError
from vla.data.loading.multi_robot import RobotBatch
from vla.models import load_policy
from vla.training import TrainConfig, train
from vla.training.metrics import Stopwatch
from vla.training.objective import Learner
from vla.training.objectives.bc import BC
from vla.training.run_data.drawing import BatchPlan
from vla.training.run_data.image_text import open_pairs, pair_batches
from vla.training.step import backward

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for name, colour in COLOURS.items():
        Image.fromarray(np.full((24, 40, 3), colour, np.uint8)).save(folder / f"{name}.png")
        lines.append(
            json.dumps({"file_name": f"{name}.png", "prompt": "Which colour?", "answer": name})
        )
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return vlm_toys.smolvlm(tmp_path_factory.mktemp("base"))


def config(data: Path, pairs: Path | None, base: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "out": str(out),
        "data": {"path": str(data), "validation_fraction": 0},
        "policy": {
            "type": "vlm",
            "base": str(base),
            "tokenizer": {"type": "bins", "num_bins": 16},
            "lora": {"rank": 8},
        },
        "co_training": {"path": str(pairs), "batch_size": 4, "weight": 0.5} if pairs else None,
        "optim": {"lr": 3e-3, "warmup_steps": 2},
        "steps": 6,
        "batch_size": 8,
        "log_every": 1,
        "validate_every": None,
        "save_every": 3,
    }
    return TrainConfig.model_validate(values | changes)


def losses(out: Path) -> list[tuple[float, ...]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], line["loss"], line["image_text_loss"], line["grad_norm"]) for line in lines
    ]


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(data, pairs_folder, base, tmp_path):
    train(config(data, pairs_folder, base, tmp_path / "whole"))
    short = config(
        data, pairs_folder, base, tmp_path / "cut", max_minutes=1e-4
    )  # one step, and save
    train(short)
    assert len(losses(tmp_path / "cut")) == 1
    result = train(short.model_copy(update={"max_minutes": None}), resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert losses(tmp_path / "cut")[-1][0] == 6
    weights = "policy/adapter.safetensors"
    assert (tmp_path / "cut" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    checkpoint = tmp_path / "cut" / "checkpoints" / "step-000006"
    frozen = sum(p.numel() for p in result.policy.parameters() if not p.requires_grad)
    assert (
        sum(f.stat().st_size for f in checkpoint.rglob("*.safetensors")) < 4 * frozen
    )  # the base is not in there
    load_policy(tmp_path / "cut" / "policy").act(training_toy.SPEC.fake_observation(2))


def test_both_kinds_of_data_are_learned(data, pairs_folder, base, tmp_path):
    values = {
        "steps": 30,
        "save_every": None,
        "ema_decay": None,
        "optim": {"lr": 1e-2, "warmup_steps": 3},
    }
    result = train(config(data, pairs_folder, base, tmp_path / "run", **values))
    found = losses(tmp_path / "run")
    (_, robot, text, _), (_, robot_after, text_after, _) = found[0], found[-1]
    print(
        f"robot loss {robot:.2f} -> {robot_after:.2f}, image-text loss {text:.2f} -> {text_after:.2f}"
    )
    assert robot_after < robot - 0.3
    assert text_after < text - 2
    images = [[np.full((24, 40, 3), colour, np.uint8)] for colour in COLOURS.values()]
    with torch.no_grad():  # each colour's own name is likelier than another's
        right, wrong = (
            result.policy.image_text_loss(images, ["Which colour?"] * 4, names)
            for names in (list(COLOURS), list(reversed(COLOURS)))
        )
    assert (right < wrong).all()


def test_which_pairs_come_is_a_function_of_seed_step_and_process(
    data, pairs_folder, base, tmp_path
):
    run = config(data, pairs_folder, base, tmp_path, grad_accumulation=2)
    policy = run.policy.build(training_toy.SPEC)
    size = run.co_training.batch_size
    pairs = open_pairs(run.co_training, policy, BatchPlan(run.batch_size, 2, run.seed))

    def answers(steps: range, rank: int = 0, world_size: int = 1) -> list[list[str]]:
        plan = BatchPlan(run.batch_size, 2, run.seed, rank=rank, world_size=world_size)
        batches = pair_batches(pairs, steps, plan, batch_size=size)
        return [[answer for part in step for answer in part.answers] for step in batches]

    whole = answers(range(1, 7))
    assert answers(range(4, 7)) == whole[3:]
    assert all(
        sorted(step) == sorted(COLOURS) for step in whole
    )  # four pairs: each step is an epoch
    assert len({tuple(step) for step in whole}) > 1
    halves = [answers(range(1, 7), rank, 2) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(step) for step in whole]
    other = BatchPlan(run.batch_size, 2, seed=run.seed + 1)
    assert [
        b
        for step in pair_batches(pairs, range(1, 4), other, batch_size=size)
        for p in step
        for b in p.answers
    ] != [a for step in whole[:3] for a in step]


def test_micro_batches_give_the_gradient_of_the_whole(data, pairs_folder, base, tmp_path):
    run = config(data, pairs_folder, base, tmp_path)
    torch.manual_seed(0)
    policy = run.policy.build(training_toy.SPEC).train()
    batch = training_toy.SPEC.fake_batch(4, 1, 1)
    policy.tokenizer.fit(batch.actions.flatten(0, 2))
    pairs = open_pairs(run.co_training, policy, BatchPlan(4, 1, 0)).batch(np.arange(4))
    learner, accelerator = Learner(policy, BC()), Accelerator(cpu=True)
    found = []
    for parts in (1, 2):
        policy.zero_grad()
        rows = np.split(np.arange(4), parts)
        batches = [RobotBatch("", batch.select(r)) for r in rows]
        watch = Stopwatch(torch.device("cpu"))
        options = {"bf16": False, "clip": None, "pairs": pairs.split(parts), "pairs_weight": 0.5}
        numbers = backward(learner, learner.objective, batches, accelerator, watch, **options)
        found.append(
            (
                numbers,
                {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None},
            )
        )
    (whole, gradients), (divided, others) = found
    assert divided["loss"] == pytest.approx(whole["loss"], abs=1e-5)
    assert divided["image_text_loss"] == pytest.approx(whole["image_text_loss"], abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-4)
    # the gradient is that of robot loss + 0.5 * image-text loss
    policy.zero_grad()
    loss, texts, _ = learner(batch, pairs)
    (loss + 0.5 * texts).backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            dict(policy.named_parameters())[name].grad, gradient, atol=1e-5, rtol=1e-4
        )


def test_what_cannot_be_co_trained_is_named(data, pairs_folder, base, tmp_path):
    toy = training_toy.toy_config(
        data, tmp_path / "a", co_training={"path": str(pairs_folder), "batch_size": 4}
    )
    with pytest.raises(
        ConfigError, match="co_training: policy 'toy_linear' has no words; use a vlm policy"
    ):
        train(toy)
    odd = config(data, pairs_folder, base, tmp_path / "b", grad_accumulation=2)
    odd = odd.model_copy(
        update={"co_training": odd.co_training.model_copy(update={"batch_size": 3})}
    )
    with pytest.raises(
        ConfigError,
        match=r"co_training.batch_size: 3 does not divide among 1 processes x 2 micro-batches",
    ):
        train(odd)
    with pytest.raises(ValueError, match=r"metadata.jsonl: no such file"):
        train(config(data, tmp_path / "nothing", base, tmp_path / "c"))
