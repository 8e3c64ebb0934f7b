"""Our side of `dt_peer`, and what both sides are given: sizes, episodes and target returns."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _peer import CONFIGS, HORIZON, Rounds, in_turn, make_dataset

TARGETS = {"hopper": 3600.0, "walker2d": 5000.0}  # what the paper asks for
SIZES: dict[str, Any] = {
    "batch_size": 64,
    "context": 20,
    "layers": 3,
    "heads": 1,
    "width": 128,
    "dropout": 0.1,
    "weight_decay": 1e-4,
    "clip_norm": 0.25,
    "return_scale": 1000.0,
    "horizon": HORIZON,
}
OURS = {  # the same settings as our training config names them
    "batch_size": "batch_size",
    "context": "policy.history",
    "layers": "policy.depth",
    "heads": "policy.heads",
    "width": "policy.width",
    "dropout": "policy.dropout",
    "weight_decay": "optim.weight_decay",
    "clip_norm": "optim.clip_norm",
    "return_scale": "policy.return_scale",
    "horizon": "policy.max_timestep",
    "lr": "optim.lr",
    "warmup_steps": "optim.warmup_steps",
}


def schedule(arguments: argparse.Namespace) -> dict[str, Any]:
    """Learning rate and warm-up of both sides."""
    return {"lr": arguments.lr, "warmup_steps": arguments.warmup_updates}


def learn(
    arguments: argparse.Namespace, env: str, seed: int, out: Path, their_turn: Callable[[int], Any]
) -> tuple[Any, Rounds]:
    """One run of `vla.train` on the whole dataset -> the policy, and what each round took."""
    settings = SIZES | schedule(arguments)
    overrides = {OURS[name]: value for name, value in settings.items()} | {
        "out": out,
        "data.path": dataset_folder(arguments, env),
        "seed": seed,
        "compile": str(arguments.compile).lower(),
    }
    return in_turn(
        overrides,
        CONFIGS / "decision_transformer.yaml",
        updates=arguments.updates,
        rounds=arguments.rounds,
        their_turn=their_turn,
    )


def dataset_folder(arguments: argparse.Namespace, env: str) -> Path:
    """Where the episodes of a robot are, or are made."""
    return Path(arguments.data) / f"{env}_medium_replay"


def open_dataset(arguments: argparse.Namespace, env: str) -> dict[str, Any]:
    """Collects the dataset where it is missing -> what is in it."""
    overrides = [f"env.robot={env}", f"env.behaviour.path={arguments.policies}"]
    return make_dataset(
        dataset_folder(arguments, env), CONFIGS / "locomotion_medium_replay.yaml", [*overrides]
    )
