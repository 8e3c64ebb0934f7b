"""Pipes, devices and folders in the place of files: whoever opens one waits for ever."""

from __future__ import annotations

import os
import random
from pathlib import Path

from attacks._case import Case
from attacks._checkpoints import answer
from attacks._checkpoints import fresh as fresh_policy
from attacks._checkpoints import warm as warm_policies
from attacks._datasets import fresh, reading, run_command, warm_all
from attacks.links import read_pairs
from attacks.results import write_run

COUNT = 120
SETS = ("folder", "LeRobot v2.1", "native, images", "native, video", "robomimic", "NumPy archive")


def warm() -> None:
    warm_policies()
    warm_all(*SETS)


def case(rng: random.Random, folder: Path) -> Case:
    kind = rng.choice(["data", "data", "data", "policy", "pairs", "results", "config"])
    if kind == "data":
        name = rng.choice(SETS)
        root = fresh(name, folder)
        files = [root]
        if root.is_dir():
            files = [p for p in sorted(root.rglob("*")) if p.is_file() and ".cache" not in p.parts]
        file = rng.choice(files)
        what = _replace(rng, file)
        way = rng.choice(["read", "validate", "info", "stats", "view", "convert"])
        return Case(f"{name}: {file.name} is {what}, {way}", reading(way, root, folder))
    if kind == "policy":
        policy = fresh_policy("mlp", folder)
        file = rng.choice(sorted(p for p in policy.iterdir() if p.is_file()))
        what = _replace(rng, file)
        return Case(f"policy: {file.name} is {what}", lambda: answer(policy))
    if kind == "pairs":
        return _pairs(rng, folder)
    if kind == "results":
        runs = [write_run(folder / name, name) for name in ("a", "b")]
        file = rng.choice([runs[0] / "results.json", runs[0] / "episodes.parquet"])
        what = _replace(rng, file)
        command = ["compare", *map(str, runs), "--force", "--out", str(folder / "out")]
        return Case(f"results: {file.name} is {what}", lambda: run_command(command))
    path = folder / "train.yaml"
    path.write_text("steps: 1")
    what = _replace(rng, path)
    return Case(f"config is {what}", lambda: run_command(["config", "check", str(path)]))


def _pairs(rng: random.Random, folder: Path) -> Case:
    import numpy as np
    from PIL import Image

    pairs = folder / "pairs"
    pairs.mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(pairs / "0.png")
    (pairs / "metadata.jsonl").write_text('{"file_name": "0.png", "prompt": "a", "answer": "b"}')
    file = pairs / rng.choice(["0.png", "metadata.jsonl"])
    what = _replace(rng, file)
    return Case(f"pairs: {file.name} is {what}", lambda: read_pairs(pairs))


def _replace(rng: random.Random, file: Path) -> str:
    file.unlink()
    kind = rng.choice(["a pipe", "a pipe", "a device", "a folder", "an endless device"])
    if kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a folder":
        file.mkdir()
    else:
        # a link, since making devices takes privileges
        file.symlink_to("/dev/null" if kind == "a device" else "/dev/zero")
    return kind
