"""Our side of `dt_peer`, and what both sides are given: sizes, episodes, starts and target returns."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent.parent / "configs"
TARGETS = {"hopper": 3600.0, "walker2d": 5000.0}  # what the paper asks for
HORIZON = 1000
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
Rounds = list[dict[str, float]]
"""Of every round the seconds by each clock: {"wall": ..., "cpu": ...}."""


class Watch:
    """Seconds by both clocks since `start`."""

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu}


def schedule(arguments: argparse.Namespace) -> dict[str, Any]:
    """Learning rate and warm-up of both sides."""
    return {"lr": arguments.lr, "warmup_steps": arguments.warmup_updates}


def learn(
    arguments: argparse.Namespace, env: str, seed: int, out: Path, their_turn: Callable[[int], Any]
) -> tuple[Any, Rounds]:
    """One run of `vla.train` on the whole dataset -> the policy, and what each round took.

    After each round `their_turn` is called with its number of updates, while the clock stands still.
    """
    from vla import TrainConfig, load_config, train

    per_round, rounds, watch = arguments.updates // arguments.rounds, Rounds(), Watch()
    settings = SIZES | schedule(arguments)
    overrides = {OURS[name]: value for name, value in settings.items()} | {
        "out": out,
        "data.path": dataset_folder(arguments, env),
        "data.validation_fraction": 0,
        "seed": seed,
        "steps": per_round * arguments.rounds,
        "ema_decay": "null",
        "precision": "'no'",  # YAML takes a bare no for false
        "compile": str(arguments.compile).lower(),
        "evaluate_every": per_round,
        "validate_every": "null",
        "save_every": "null",
        "log_every": 100,
    }
    config = load_config(
        TrainConfig, CONFIGS / "decision_transformer.yaml", [f"{k}={v}" for k, v in overrides.items()], section="train"
    )

    def between(policy: Any, step: int) -> dict[str, float]:
        rounds.append(watch.read())
        their_turn(per_round)
        watch.start()
        return {}

    watch.start()
    return train(config, evaluate=between).policy, rounds


def play(arguments: argparse.Namespace, env: str, policy: Any = None) -> list[float]:
    """Returns of the policy, or of the last published snapshot, from the starts that all are given."""
    from vla.sim_eval.envs.locomotion import LocomotionConfig
    from vla.sim_eval.rollout import rollout
    from vla.sim_eval.rollout_worker import Job

    config = LocomotionConfig.model_validate({"robot": env, "behaviour": {"path": arguments.policies}})
    driver = "expert" if policy is None else "parent"
    jobs = [Job(env, "", e, s, HORIZON, driver) for e, s in enumerate(starts(arguments, env))]
    target = None if policy is None else TARGETS[env]
    records = rollout(config, jobs, policy, threads=arguments.threads, target_return=target)
    return [record.return_ for record in records]


def starts(arguments: argparse.Namespace, env: str) -> list[int]:
    """The seeds of the episodes that everyone plays: those of `vla eval`."""
    from vla.sim_eval.seeding import episode_seed

    return [episode_seed("eval", 0, env, episode) for episode in range(arguments.episodes)]


def dataset_folder(arguments: argparse.Namespace, env: str) -> Path:
    """Where the episodes of a robot are, or are made."""
    return arguments.data / f"{env}_medium_replay"


def make_dataset(arguments: argparse.Namespace, env: str) -> dict[str, Any]:
    """Collects the dataset where it is missing -> what is in it."""
    from vla import CollectConfig, EpisodeDataset, collect, load_config

    folder = dataset_folder(arguments, env)
    overrides = [f"env.robot={env}", f"env.behaviour.path={arguments.policies}", f"out={folder}"]
    if not folder.exists():
        collect(load_config(CollectConfig, CONFIGS / "locomotion_medium_replay.yaml", overrides, section="collect"))
    returns = EpisodeDataset(folder).episodes["return"]
    frames = EpisodeDataset(folder).num_frames
    return {
        "episodes": len(returns),
        "frames": frames,
        "mean_return": round(float(returns.mean()), 1),
        "best_return": round(float(returns.max()), 1),
    }


def export(dataset: Path, file: Path) -> None:
    """The episodes' arrays as our windows are cut from them, for a reader without this package."""
    import numpy as np

    from vla import EpisodeDataset

    opened = EpisodeDataset(dataset)
    columns, table = opened.columns, opened.episodes
    np.savez(
        file,
        states=columns.state,
        actions=columns.actions,
        rewards=columns.rewards,
        lengths=table["length"].to_numpy(np.int64),
        terminated=table["terminated"].to_numpy(bool),
    )
