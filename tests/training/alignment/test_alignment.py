"""Alignment: what lies between picture and words learns to answer, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import vlm_toys
from PIL import Image
from safetensors.torch import load_file

from vla.config import ConfigError, validate
from vla.data.loading.image_text import ImageTextPairs
from vla.models.layers.vision_language import VisionLanguageModel
from vla.models.layers.vision_language_base import load_base, load_processor
from vla.models.layers.vision_language_parts.answers import judge_answers
from vla.training.alignment import learning
from vla.training.alignment.accuracy import answer_accuracy
from vla.training.alignment.config import AlignConfig
from vla.training.alignment.learning import align
from vla.training.trainer import TrainingDivergedError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return vlm_toys.composed(tmp_path_factory.mktemp("base") / "b")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Pictures of one colour each with some noise; those that are held out have other noise."""
    made = {}
    for seed, name in enumerate(("train", "held_out")):
        folder = made[name] = tmp_path_factory.mktemp(name)
        rng = np.random.default_rng(seed)
        lines = []
        for number in range(18):  # half of them away lies another colour
            colour = list(COLOURS)[number % 4]
            noise = rng.integers(-20, 21, (24, 24, 3))
            picture = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / f"{number}.png")
            pair = {"file_name": f"{number}.png", "prompt": "Which colour?", "answer": colour}
            lines.append(json.dumps({**pair, "kind": "colour"}))
            if number < 4:  # a second question, which the picture does not decide
                other = {"file_name": f"{number}.png", "prompt": "Go?", "answer": "go"}
                lines.append(json.dumps({**other, "kind": "same"}))
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return made


def config(base: Path, folders: dict[str, Path], out: Path, **changes) -> AlignConfig:
    values = {
        "base": str(base),
        "out": str(out),
        "pairs": str(folders["train"]),
        "held_out": str(folders["held_out"]),
        "optim": {"lr": 3e-3, "weight_decay": 0.0, "warmup_steps": 5},
        "steps": 3,
        "batch_size": 8,
        "log_every": 1,
    }
    return AlignConfig.model_validate(values | changes)


def test_it_learns_to_see(base, folders, tmp_path):
    # of a language model with random weights: nothing it reads would make it say these words
    trained = ["*multi_modal_projector*", "*language_model*"]
    made = align(config(base, folders, tmp_path / "run", steps=60, trained=trained))
    assert made.before["exact"] == 0
    assert made.after["exact"] > 0.9
    # another colour's picture gives another colour's answer, and does not touch the other question
    assert made.after["blind/colour"] < 0.5
    assert made.after["blind/same"] == made.after["exact/same"] == 1
    lines = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, *range(1, 61), 60]
    assert lines[0]["held_out/exact"] == made.before["exact"]
    changed = changed_tensors(base, made.base)
    assert not [name for name in changed if "vision_tower" in name]
    # the folder is a base like any other
    trunk = VisionLanguageModel(
        load_base(str(made.base), torch.float32), load_processor(made.base)
    ).eval()
    found = answer_accuracy(trunk, ImageTextPairs(folders["held_out"]), most=100)
    assert found == pytest.approx(made.after, abs=1e-4)
    assert "60 steps" in json.loads((made.base / "sources.json").read_text())["projector"]


def changed_tensors(one: Path, other: Path) -> set[str]:
    before, after = (load_file(path / "model.safetensors") for path in (one, other))
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@torch.no_grad()
def test_exact_is_what_greedy_decoding_writes(base):
    """Of the text that the model itself writes every token is right, and of no other."""
    trunk = VisionLanguageModel(load_base(str(base), torch.float32), load_processor(base)).eval()
    trunk.tokenizer.eos_token = "<|im_end|>"
    image = np.full((24, 24, 3), 99, np.uint8)
    prompt = trunk.prompt(["Which colour?"], [[image]])
    start = prompt.length
    written = trunk.model.generate(**prompt.fields, max_new_tokens=4, do_sample=False)[0, start:]
    ids = written[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    trunk.answer = lambda texts: (ids, mask)  # its ids, which may not survive decoding to a text
    assert judge_answers(trunk, [[image]], ["Which colour?"], [""]).exact.tolist() == [True]
    ids = (ids + 1) % 300
    assert judge_answers(trunk, [[image]], ["Which colour?"], [""]).exact.tolist() == [False]


def test_the_same_run_twice_and_a_run_in_the_way(base, folders, tmp_path):
    settings = config(base, folders, tmp_path / "run")
    first = align(settings)
    weights = load_file(first.base / "model.safetensors")
    part = "model.multi_modal_projector.linear_"
    assert changed_tensors(base, first.base) == {
        f"{part}{layer}.{name}" for layer in (1, 2) for name in ("weight", "bias")
    }
    with pytest.raises(ConfigError, match=r"out: .* holds a run already"):
        align(settings)
    again = load_file(align(settings, restart=True).base / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    steps = [
        json.loads(x)["step"] for x in (tmp_path / "run/metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert steps == [0, 1, 2, 3, 3]


def test_an_interrupted_run_goes_on_to_the_same_bytes(base, folders, tmp_path, monkeypatch):
    def settings(name: str, **changes) -> AlignConfig:
        return config(base, folders, tmp_path / name, steps=5, log_every=2, **changes)

    whole = align(settings("whole"))
    real = learning._Run._step
    done = []

    def killed(self, step, batch, optimizer):
        done.append(step)
        if done.count(4) == 1 and step == 4:
            raise KeyboardInterrupt
        return real(self, step, batch, optimizer)

    monkeypatch.setattr(learning._Run, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        align(settings("cut", save_every=3))
    with pytest.raises(ConfigError, match="seed: is 1"):
        align(settings("cut", seed=1), resume=True)
    # what is only how often something is saved may be another
    made = align(settings("cut"), resume=True)
    for name in ("base/model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (made.before, made.after) == (whole.before, whole.after)
    # a finished run has nothing left to learn, and is judged once more
    assert align(settings("cut"), resume=True).after == whole.after
    assert done == [1, 2, 3, 4, 4, 5]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"trained": ["*connector*"]}, ConfigError, r"trained: '\*connector\*' matches nothing"),
        ({"optim": {"lr": 1e30}, "steps": 4}, TrainingDivergedError, r"step \d: .*lower optim\.lr"),
    ],
)
def test_what_is_refused(base, folders, tmp_path, changes, error, message):
    settings = config(base, folders, tmp_path / "run", held_out=None, **changes)
    with pytest.raises(error, match=message):
        align(settings)


def test_scenes_that_are_not_held_out(base, folders, tmp_path):
    same = config(base, folders, tmp_path / "run", held_out=str(folders["train"]))
    with pytest.raises(ConfigError, match="held_out: is the folder of pairs"):
        align(same)
    with pytest.raises(ConfigError, match="optim: project_gradients and critic"):
        validate(AlignConfig, {**same.model_dump(), "optim": {"project_gradients": True}})


@pytest.mark.parametrize("stored", ["steps: 3\ndata: {path: x}\n", None])
def test_beginning_again_deletes_no_other_run(base, folders, tmp_path, stored):
    kept = tmp_path / "run" / "checkpoints" / "step-000003" / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_text("learned")
    if stored is not None:
        (tmp_path / "run" / "config.yaml").write_text(stored)
    for how in ({"restart": True}, {"resume": True}, {}):
        with pytest.raises(ConfigError, match=r"out: .* name another out"):
            align(config(base, folders, tmp_path / "run"), **how)
    assert kept.read_text() == "learned"


def test_beginning_again_with_a_wrong_base_loses_nothing(base, folders, tmp_path):
    aligned = tmp_path / "run" / "base" / "model.safetensors"
    aligned.parent.mkdir(parents=True)
    aligned.write_text("learned")
    (tmp_path / "run" / "config.yaml").write_text("pairs: x\n")
    settings = config(base, folders, tmp_path / "run", trained=["*no_such_part*"])
    with pytest.raises(ConfigError, match="no_such_part"):
        align(settings, restart=True)
    assert aligned.read_text() == "learned"
