"""Does a long training, collection or evaluation grow? Memory, open files and temporary files over many steps.

A tiny `mlp` is trained for many steps, and episodes of a maze are collected and evaluated in one process; every so
often resident memory, open descriptors and files in the folder of temporary files are noted. Growth is the slope of a
least-squares line behind the first tenth, which is warm-up; its 95 % interval is of a bootstrap over blocks of
neighbouring points.

    python benchmarks/long_run.py [--steps 30000] [--episodes 5000] [--threads 1 2 4]
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

POINTS = 100
"""Of a curve."""
BLOCK = 5
"""Neighbouring points that are drawn together: memory grows in jumps."""


@dataclass
class Watch:
    """What a process has, noted every so many units of work.

    Attributes:
        every: units between two points.
        points: (units done, resident bytes, descriptors, temporary files).
    """

    every: int
    points: list[tuple[int, int, int, int]] = field(default_factory=list)

    def __call__(self, done: int) -> None:
        if done % self.every:
            return
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))
        temporary = sum(1 for _ in Path(tempfile.gettempdir()).rglob("*"))
        self.points.append((done, pages * os.sysconf("SC_PAGE_SIZE"), files, temporary))

    def report(self, per: int, rng: np.random.Generator) -> dict[str, Any]:
        """Growth of memory per `per` units in KiB with its interval, and how far the rest has moved."""
        kept = np.array(self.points[len(self.points) // 10 :], np.float64)
        done, memory = kept[:, 0], kept[:, 1] / 1024
        slopes = []
        blocks = np.arange(len(kept) - BLOCK + 1)
        for _ in range(2000):
            starts = rng.choice(blocks, -(-len(kept) // BLOCK))
            rows = (starts[:, None] + np.arange(BLOCK)).ravel()
            slopes.append(slope(done[rows], memory[rows]))
        low, high = np.quantile(slopes, (0.025, 0.975)) * per
        return {
            "units": int(done[-1]),
            "points": len(kept),
            "kib_per_1000": round(slope(done, memory) * per, 3),
            "interval": [round(float(low), 3), round(float(high), 3)],
            "resident_mib": [round(memory[0] / 1024, 1), round(memory[-1] / 1024, 1)],
            "descriptors": [int(kept[:, 2].min()), int(kept[:, 2].max())],
            "temporary_files": [int(kept[:, 3].min()), int(kept[:, 3].max())],
        }


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of the least-squares line; 0 if all x are one."""
    x = x - x.mean()
    square = float((x * x).sum())
    return float((x * (y - y.mean())).sum() / square) if square else 0.0


def collected(folder: Path, episodes: int, watch: Callable[[int], None]) -> None:
    """Records so many episodes of the maze, played by random forces."""
    from vla.data import DatasetWriter, Episode
    from vla.sim_eval.envs.pointmaze import PointMazeConfig

    config = PointMazeConfig(tasks=("umaze",), horizon=20)
    rng = np.random.default_rng(0)
    env = config.make("umaze")
    with DatasetWriter(folder, config.spec()) as writer:
        group = []
        for number in range(1, episodes + 1):
            seen, info = env.reset(seed=number)
            states, actions, rewards = [], [], []
            for _ in range(20):
                states.append(seen["state"])
                actions.append(rng.uniform(-1, 1, 2).astype(np.float32))
                seen, reward, *_ = env.step(actions[-1])
                rewards.append(float(reward))
            none = np.zeros(20, bool)
            numbers = np.array(rewards, np.float32)
            text = str(info["instruction"])
            group.append(
                Episode({}, np.stack(states), np.stack(actions), numbers, none, False, text)
            )
            if len(group) == 10:
                writer.add_episodes(group)
                group = []
            watch(number)
        writer.add_episodes(group)
    env.close()


def trained(data: Path, out: Path, steps: int, watch: Callable[[int], None]) -> Path:
    """Trains a tiny mlp -> the weights of the policy."""
    from vla.config import load_config
    from vla.training import TrainConfig, train
    from vla.training import metrics as training_metrics

    values = {
        "out": str(out),
        "data": {"path": str(data)},
        "policy": {"type": "mlp", "hidden": 32, "depth": 1, "chunk": 2},
        "steps": steps,
        "batch_size": 32,
        "log_every": 10,
        "validate_every": 1000,
        "save_every": 1000,
    }
    add = training_metrics.Mean.add
    done = 0

    def counted(mean: Any, numbers: Any) -> None:
        nonlocal done
        add(mean, numbers)
        done += 1
        watch(done)

    # once a step, and nothing of the loop is changed
    training_metrics.Mean.add = counted  # type: ignore[method-assign]
    try:
        train(load_config(TrainConfig, values))
    finally:
        training_metrics.Mean.add = add  # type: ignore[method-assign]
    return out / "policy" / "model.safetensors"


def played(policy: Path, out: Path, episodes: int, watch: Callable[[int], None]) -> None:
    """Evaluates the policy in one process."""
    from vla.config import load_config
    from vla.models import load_policy
    from vla.sim_eval import evaluation

    values = {
        "env": {"type": "pointmaze", "tasks": ["umaze"], "horizon": 20},
        "policy": str(policy),
        "out": str(out),
        "episodes_per_task": episodes,
        "workers": 0,
        "batch_size": 10,
        "videos_per_task": 0,
        "failure_videos": 0,
    }
    config = load_config(evaluation.EvalConfig, values)
    done = 0

    def count(record: Any) -> None:
        nonlocal done
        done += 1
        watch(done)

    evaluation.play(load_policy(policy), config, range(episodes), on_done=count, folder=out)


def one(arguments: argparse.Namespace) -> None:
    """What a process of its own does; its last line is JSON."""
    import json

    import torch

    torch.set_num_threads(arguments.one)
    folder = Path(arguments.folder)
    data, run = folder / "data", folder / f"run-{arguments.one}-{arguments.steps}"
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {"threads": arguments.one}
    started = time.monotonic()
    if not data.exists():
        watch = Watch(max(1, arguments.episodes // POINTS))
        collected(data, arguments.episodes, watch)
        found["recording"] = watch.report(1000, rng)
    watch = Watch(max(1, arguments.steps // POINTS))
    weights = trained(data, run, arguments.steps, watch)
    found["training"] = watch.report(1000, rng)
    found["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    if arguments.evaluate:
        watch = Watch(max(1, arguments.episodes // POINTS))
        played(run / "policy", folder / "eval", arguments.episodes, watch)
        found["evaluation"] = watch.report(1000, rng)
    found["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(found))


def in_a_process(
    arguments: argparse.Namespace, folder: Path, threads: int, steps: int, *, evaluate: bool
) -> dict[str, Any]:
    import json

    command = [sys.executable, __file__, "--one", str(threads), "--folder", str(folder)]
    command += ["--steps", str(steps), "--episodes", str(arguments.episodes)]
    command += ["--evaluate"] if evaluate else []
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TMPDIR": str(folder / "tmp")}
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(found.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30000)
    parser.add_argument("--episodes", type=int, default=5000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--thread-steps", type=int, default=500, help="of the runs that compare")
    parser.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--evaluate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments)
        return
    from _common import publish
    from rich.table import Table

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long = in_a_process(arguments, folder, 1, arguments.steps, evaluate=True)
        sums = {}
        for threads in arguments.threads:
            short = in_a_process(arguments, folder, threads, arguments.thread_steps, evaluate=False)
            sums[str(threads)] = short["weights_sha256"]
    table = Table(title="growth over long runs, one process")
    for column in ("", "units", "KiB per 1,000", "95 % interval", "descriptors", "temporary files"):
        table.add_column(column)
    kinds = {kind: long[kind] for kind in ("recording", "training", "evaluation")}
    for kind, found in kinds.items():
        low, high = found["interval"]
        table.add_row(
            kind,
            str(found["units"]),
            f"{found['kib_per_1000']:.1f}",
            f"{low:.1f} to {high:.1f}",
            "{} to {}".format(*found["descriptors"]),
            "{} to {}".format(*found["temporary_files"]),
        )
    publish(
        "long_run",
        ours=kinds["training"]["kib_per_1000"],
        theirs=None,
        ratio=None,
        unit="KiB of memory per 1,000 training steps",
        table=table,
        kinds=kinds,
        threads=sums,
        thread_steps=arguments.thread_steps,
        equal=len(set(sums.values())) == 1,
    )


if __name__ == "__main__":
    main()
