"""Our side of `offline_rl_peer`, and what both sides are given: datasets, algorithms and their settings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _peer import CONFIGS, Peer, Rounds, in_turn, make_dataset

ENVS = ("hopper", "walker2d", "halfcheetah")
SETS = ("medium", "medium_replay", "medium_expert")
REPLAY = CONFIGS / "locomotion_medium_replay.yaml"
OFFLINE = CONFIGS / "locomotion_offline.yaml"
MADE: dict[tuple[str, str], tuple[Path, dict[str, Any]]] = {
    ("hopper", "medium"): (OFFLINE, {}),
    ("walker2d", "medium"): (OFFLINE, {"env.behaviour.snapshots": [3], "episodes_per_task": 220}),
    ("halfcheetah", "medium"): (
        OFFLINE,
        {"env.behaviour.snapshots": [3], "episodes_per_task": 200},
    ),
    ("hopper", "medium_expert"): (
        OFFLINE,
        {"env.behaviour.snapshots": [1, 1, 1, 1, 2, 2, -1, -1, -1], "episodes_per_task": 360},
    ),
    ("walker2d", "medium_expert"): (
        OFFLINE,
        {"env.behaviour.snapshots": [3, -1], "episodes_per_task": 220},
    ),
    ("halfcheetah", "medium_expert"): (
        OFFLINE,
        {"env.behaviour.snapshots": [3, -1], "episodes_per_task": 200},
    ),
    ("hopper", "medium_replay"): (REPLAY, {}),
    ("walker2d", "medium_replay"): (REPLAY, {}),
    ("halfcheetah", "medium_replay"): (
        OFFLINE,
        {"env.behaviour.snapshots": [0, 1, 2, 3], "episodes_per_task": 240},
    ),
}
"""How each dataset is made, as the headers of the configs say."""

SHARED: dict[str, Any] = {
    "batch_size": 256,
    "hidden": 256,
    "depth": 2,
    "discount": 0.99,
    "target_rate": 0.005,
    "critics": 2,
    "betas": [0.9, 0.999],
    "weight_decay": 0.0,
}
"""What all algorithms have on both sides: d3rlpy's defaults."""


@dataclass(frozen=True)
class Algorithm:
    """One algorithm, as d3rlpy's defaults have it but where the benchmark's README says.

    Attributes:
        shared: numbers that both sides are given.
        objective: of our training config, beside those.
        head: of our policy.
        rates: of our optimiser, factors on the learning rate by the names of parameters.
    """

    shared: dict[str, Any]
    objective: dict[str, Any]
    head: dict[str, Any]
    rates: dict[str, float]


ALGORITHMS = {
    "iql": Algorithm(
        {"lr": 3e-4, "expectile": 0.7, "beta": 3.0, "max_weight": 100.0},
        {"type": "iql", "expectile": 0.7, "beta": 3.0, "max_weight": 100.0},
        {"type": "gaussian", "squash": "mean", "deviation": "global", "log_std": [-5.0, 2.0]},
        {},
    ),
    "awac": Algorithm(
        {"lr": 3e-4, "beta": 1.0},
        {"type": "awac", "beta": 1.0},
        {"type": "gaussian", "squash": "mean", "deviation": "global", "log_std": [-6.0, 0.0]},
        {},
    ),
    "td3_bc": Algorithm(
        {"lr": 3e-4, "alpha": 2.5, "noise": 0.2, "noise_clip": 0.5, "policy_every": 2},
        {"type": "td3_bc", "alpha": 2.5, "noise": 0.2, "noise_clip": 0.5, "policy_every": 2},
        {"type": "squashed", "error": "l2"},
        {},
    ),
    "cql": Algorithm(
        {"lr": 3e-4, "policy_lr": 1e-4, "alpha": 5.0, "sampled": 10},
        {"type": "cql", "alpha": 5.0, "sampled": 10, "temperature": "auto"},
        {"type": "gaussian", "squash": "full", "deviation": "state", "log_std": [-5.0, 2.0]},
        {"policy.*": 1 / 3, "objective.extraction.log_temperature": 1 / 3},
    ),
    "filtered_bc": Algorithm(
        {"lr": 1e-3, "fraction": 0.1},
        {"type": "filtered_bc", "keep": "return", "fraction": 0.1},
        {"type": "squashed", "error": "l2"},
        {},
    ),
}


def settings_of(algorithm: str) -> dict[str, Any]:
    """Settings of an algorithm for d3rlpy's side."""
    return SHARED | ALGORITHMS[algorithm].shared | {"algorithm": algorithm}


def learn(
    arguments: argparse.Namespace,
    data: Path,
    algorithm: str,
    seed: int,
    out: Path,
    their_turn: Callable[[int], Any],
) -> tuple[Any, Rounds]:
    """One run of `vla.train` on the whole dataset -> the policy, and what each round took."""
    chosen = ALGORITHMS[algorithm]
    objective = dict(chosen.objective)
    if algorithm != "filtered_bc":
        critic = {name: SHARED[name] for name in ("hidden", "depth")}
        critic |= {
            "ensemble": SHARED["critics"],
            "layer_norm": False,
            "output_scale": arguments.critic_scale,
        }
        objective["critic"] = critic
        objective |= {name: SHARED[name] for name in ("discount", "target_rate")}
    policy = {
        "type": "mlp",
        "hidden": SHARED["hidden"],
        "depth": SHARED["depth"],
        "head": chosen.head,
    }
    optim = {
        "lr": chosen.shared["lr"],
        "betas": SHARED["betas"],
        "weight_decay": SHARED["weight_decay"],
    }
    fixed = {"warmup_steps": 0, "schedule": "constant", "clip_norm": None, "rates": chosen.rates}
    overrides = {  # JSON is YAML
        "out": out,
        "data.path": data,
        "seed": seed,
        "batch_size": SHARED["batch_size"],
        "policy": json.dumps(policy),
        "objective": json.dumps(objective),
        "optim": json.dumps(optim | fixed),
    }
    return in_turn(
        overrides,
        OFFLINE,
        updates=arguments.updates,
        rounds=arguments.rounds,
        their_turn=their_turn,
    )


def dataset_folder(arguments: argparse.Namespace, env: str, kind: str) -> Path:
    """Where the episodes are, or are made."""
    return Path(arguments.data) / f"{env}_{kind}"


def open_dataset(arguments: argparse.Namespace, env: str, kind: str) -> dict[str, Any]:
    """Collects the dataset where it is missing -> what is in it."""
    config, changes = MADE[env, kind]
    lines = [f"env.robot={env}", f"env.behaviour.path={arguments.policies}"]
    lines += [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return make_dataset(dataset_folder(arguments, env, kind), config, lines)


class PeerActor:
    """d3rlpy's policy as our simulation sees it: states go to the other process, its best actions come back.

    Attributes:
        spec, history: as of every actor.
    """

    history = 1

    def __init__(self, peer: Peer, spec: Any) -> None:
        self.peer, self.spec = peer, spec

    def act(self, observation: Any, memory: Any = None) -> tuple[Any, Any]:
        import torch

        from vla.models.policies.mlp import MLPMemory

        answer = self.peer.ask(act=observation.state.tolist())
        actions = torch.tensor(answer["actions"], dtype=torch.float32)[:, None]
        return actions, MLPMemory(tuple(observation.instruction), torch.empty(len(actions), 0))
