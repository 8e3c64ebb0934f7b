"""Configs with odd values under every key, odd YAML, and settings that would change nothing."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

from attacks._case import Case
from attacks._checkpoints import ODD
from attacks._datasets import fresh, run_command, warm_all

COUNT = 150
TEXTS = (
    "steps: 2\nsteps: 3",
    "batch_size: 010",
    "steps: yes",
    "steps: true",
    "a: &a [1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]",
    "a: &a {b: *a}",
    "[" * 900,
    "[" * 900 + "]" * 900,
    "[" * 5000 + "]" * 5000,
    "steps: !!python/object/apply:os.system ['touch MARK/x']",
    "steps: !!python/name:os.system",
    "\\[/red]: 1",
    "'[/red]': 1",
    "? [1, 2]\n: 3",
    "steps: 1_000",
    "steps: 0x10",
    "steps: 1e3",
    "steps: .nan",
    "steps: 99999999999999999999999999999999999999",
    "---\na: 1\n---\nb: 2",
    "\x00",
    "\xff",
    "steps: " + "9" * 10_000,
    "%YAML 9.9\n---\na: 1",
)
KEYS = (
    "seed",
    "batch_size",
    "steps",
    "policy.chunk",
    "policy.hidden",
    "policy.depth",
    "grad_accumulation",
    "optim.lr",
    "optim.clip_norm",
    "optim.eps",
    "optim.warmup_steps",
    "ema_decay",
    "data.solved_share",
    "data.task_balance",
    "data.validation_fraction",
    "data.task_weights.lift",
    "data.rewards.scale",
    "data.path",
    "data.keys.control_hz",
    "data.keys.state",
    "out",
    "max_minutes",
    "log_every",
    "save_every",
    "init_from",
    "precision",
    "trackers",
    "version",
)
NO_EFFECT = (
    "optim.lr=5e-324",
    "optim.lr=1e-40",
    "optim.clip_norm=1e-300",
    "optim.eps=1e308",
    "optim.min_lr_fraction=0.5",
    "data.rewards.scale=1e-300",
    "optim.rates={policy.*: 1e-300}",
)


def warm() -> None:
    warm_all("native, images")


def case(rng: random.Random, folder: Path) -> Case:
    kind = rng.choice(["text", "value", "value", "train", "no effect", "many"])
    config = folder / "c.yaml"
    if kind == "text":
        text = rng.choice(TEXTS).replace("MARK", str(folder.with_name("mark")))
        body = text if rng.random() < 0.5 else _indented(text)
        config.write_text(body, encoding="utf-8")
        return Case(f"YAML {text[:40]!r}", lambda: run_command(["config", "check", str(config)]))
    if kind == "many":
        config.write_text("train:\n" + "".join(f"  key_{i}: 1\n" for i in range(20_000)))
        aliases = rng.random() < 0.5
        if aliases:
            config.write_text(_aliases())
        what = "lists of aliases" if aliases else "20,000 unknown keys"
        return Case(what, lambda: run_command(["config", "check", str(config)]))
    root = fresh("native, images", folder)
    values = [
        f"data.path={root}",
        f"out={folder / 'run'}",
        "policy={type: mlp, hidden: 8}",
        "steps=2",
        "batch_size=2",
        "data.validation_fraction=0",
        "save_every=null",
    ]
    config.write_text("{}")
    if kind == "no effect":
        odd = rng.choice(NO_EFFECT)
        if "min_lr" in odd:
            values.append("optim.schedule=constant")
        command = ["train", str(config), *values, odd]
        return Case(
            f"train {odd}", lambda: run_command(command), check=lambda said: _told(said, odd)
        )
    key = rng.choice(KEYS)
    odd_value: Any = rng.choice([*ODD, 2**32, 2**63, "run[red]x", "run[/x]", "a\\0b"])
    text = f"{key}={str(odd_value).encode('utf-8', 'surrogatepass').decode('utf-8', 'replace')}"
    # what is right trains for two steps; what is absurd must be refused before
    if kind == "train" and key in ("seed", "policy.chunk", "optim.lr", "out", "data.solved_share"):
        return Case(
            f"train {text[:60]!r}", lambda: run_command(["train", str(config), *values, text])
        )
    command = ["config", "check", str(config), *values, text]
    return Case(f"check {text[:60]!r}", lambda: run_command(command))


def _indented(text: str) -> str:
    return "train:\n" + "\n".join(f"  {line}" for line in text.split("\n"))


def _aliases() -> str:
    lines = ["train:", "  a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, 10):
        lines.append(f"  a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join(lines)


def _told(said: str, setting: str) -> str:
    key = re.split(r"[={]", setting)[0]
    return "" if key in "".join(said.split()) else f"{setting} is not named"
