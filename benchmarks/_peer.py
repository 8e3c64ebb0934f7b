"""What the side-by-sides with d3rlpy share on our side: its process, runs that are kept, the same episodes and starts."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _process import JsonProcess

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
HORIZON = 1000
SIDES = ("ours", "d3rlpy")
Rounds = list[dict[str, float]]
"""Of every round the seconds by each clock: {"wall": ..., "cpu": ...}."""


class Watch:
    """Seconds by both clocks since `start`."""

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu}


class Peer(JsonProcess):
    """d3rlpy's process (see `_d3rlpy.serve`); `threads` are those of its arithmetic."""

    def __init__(
        self, interpreter: Path, script: str, settings: dict[str, Any], *, threads: int
    ) -> None:
        super().__init__(interpreter, script, settings, {"OMP_NUM_THREADS": str(threads)})


def kept(file: Path, settings: dict[str, Any], work: Callable[[], Any]) -> Any:
    """What `work` returns, from `file` where it was done before with these settings."""
    settings = json.loads(json.dumps(settings))  # as it will be read: tuples become lists
    if file.is_file():
        found = json.loads(file.read_text())
        if found["settings"] == settings:
            return found["result"]
    result = work()
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps({"settings": settings, "result": result}, indent=2) + "\n")
    beside.replace(file)
    return result


def add_peer_arguments(parser: argparse.ArgumentParser, *, work: str) -> None:
    """Where things are. See `check_peer_arguments`."""
    parser.add_argument(
        "--policies",
        type=Path,
        required=True,
        help="folder of the published snapshots, such as hopper.h5",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where the datasets are, or are made"
    )
    parser.add_argument(
        "--work", type=Path, default=Path(work), help="where finished runs are kept"
    )
    parser.add_argument(
        "--peer", type=Path, default=Path(".venv-d3rlpy/bin/python"), help="d3rlpy's interpreter"
    )


def check_peer_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the program where rounds and updates do not fit, or d3rlpy is not there."""
    if arguments.rounds < 2 or arguments.updates % arguments.rounds:
        parser.error(
            f"--updates {arguments.updates} must be a multiple of --rounds {arguments.rounds}, which is 2 at least"
        )
    if not arguments.peer.is_file():
        print(
            f"{parser.prog}: no interpreter {arguments.peer}: run `make bench-dt_peer`, which makes it",
            file=sys.stderr,
        )
        raise SystemExit(2)


def in_turn(
    overrides: dict[str, Any],
    config: Path,
    *,
    updates: int,
    rounds: int,
    their_turn: Callable[[int], Any],
) -> tuple[Any, Rounds]:
    """One run of `vla.train` on the whole dataset -> the policy, and what each round took.

    After each round `their_turn` is called with its number of updates, while the clock stands still.

    Args:
        overrides: dotted keys of the training config -> values, beside those that all runs have.
        config: a file with a section `train`.
    """
    from vla import TrainConfig, load_config, train

    per_round, seconds, watch = updates // rounds, Rounds(), Watch()
    shared = {
        "data.validation_fraction": 0,
        "steps": per_round * rounds,
        "ema_decay": "null",
        "precision": "'no'",  # YAML takes a bare no for false
        "evaluate_every": per_round,
        "validate_every": "null",
        "save_every": "null",
        "log_every": 100,
    }
    lines = [f"{key}={value}" for key, value in (shared | overrides).items()]

    def between(policy: Any, step: int) -> dict[str, float]:
        seconds.append(watch.read())
        their_turn(per_round)
        watch.start()
        return {}

    watch.start()
    return train(
        load_config(TrainConfig, config, lines, section="train"), evaluate=between
    ).policy, seconds


def play(
    robot: str,
    actor: Any,
    *,
    policies: Path,
    seeds: Sequence[int],
    threads: int,
    target: float | None = None,
) -> list[float]:
    """Returns of the actor, or of the last published snapshot where it is None, from the starts that all are given."""
    from vla.sim_eval.envs.locomotion import LocomotionConfig
    from vla.sim_eval.rollouts.jobs import Job
    from vla.sim_eval.rollouts.scheduler import rollout

    config = LocomotionConfig.model_validate({"robot": robot, "behaviour": {"path": policies}})
    driver = "expert" if actor is None else "policy"
    jobs = [Job(robot, "", e, seed, HORIZON, driver) for e, seed in enumerate(seeds)]
    records = rollout(config, jobs, actor, threads=threads, target_return=target)
    return [record.return_ for record in records]


def starts(robot: str, episodes: int) -> list[int]:
    """The seeds of the episodes that everyone plays: those of `vla eval`."""
    from vla.sim_eval.rollouts.seeding import episode_seed

    return [episode_seed("eval", 0, robot, episode) for episode in range(episodes)]


def make_dataset(folder: Path, config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Collects the dataset where it is missing -> what is in it."""
    from vla import CollectConfig, EpisodeDataset, collect, load_config

    if not folder.exists():
        collect(
            load_config(CollectConfig, config, [*overrides, f"out={folder}"], section="collect")
        )
    returns = EpisodeDataset(folder).episodes["return"]
    return {
        "episodes": len(returns),
        "frames": EpisodeDataset(folder).num_frames,
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
