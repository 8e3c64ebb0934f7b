"""One side of `busy_machine.py`: a process that trains, collects and evaluates when it is asked to."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import prepare_cpu
from train_cpu import WINDOWS, learner_of, step_of

from vla.config import load_config
from vla.recipes.demo import DemoConfig
from vla.sim_eval import CollectConfig, EvalConfig, collect, evaluate
from vla.sim_eval.envs.tabletop import TabletopConfig

EPISODES, HORIZON = 2, 30
ENV = TabletopConfig(tasks=("reach",), cameras=("front",), image_size=96, horizon=HORIZON)


def train(step: Callable[[], None]) -> int:
    """A step of the demo's RT-1 -> the frames in it."""
    step()
    return WINDOWS


def collect_episodes(folder: Path) -> int:
    """Episodes of experts, in this process -> their number."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    config = CollectConfig(
        env=ENV,
        out=folder / "data",
        episodes_per_task=EPISODES,
        only_successes=False,
        # workers have a thread each, and what takes long of them is their start
        workers=1,
    )
    collect(config)
    return EPISODES


def evaluate_policy(policy: Any, folder: Path) -> int:
    """Episodes of an untrained RT-1 with two threads, in this process -> their number."""
    config = EvalConfig(
        env=ENV,
        out=str(folder / "eval"),
        episodes_per_task=EPISODES,
        workers=0,
        threads=torch.get_num_threads(),
        videos_per_task=0,
        failure_videos=0,
    )
    evaluate(policy, config, progress=False)
    return EPISODES


def works(folder: Path) -> dict[str, Callable[[], int]]:
    """By name: a function that works once and returns how many units it did."""
    demo = load_config(DemoConfig, {}, [])
    objective, policy_config = demo.train.objective, demo.train.policy
    spec = ENV.spec()
    batch = spec.fake_batch(WINDOWS, 1, policy_config.chunk)
    learner = learner_of(objective, policy_config)
    step = step_of(learner, batch, bf16=False)
    torch.manual_seed(0)
    policy = policy_config.build(spec).eval()
    return {
        "train": functools.partial(train, step),
        "collect": functools.partial(collect_episodes, folder),
        "evaluate": functools.partial(evaluate_policy, policy, folder),
    }


def main() -> None:
    settings = json.loads(sys.argv[1])
    prepare_cpu(settings["threads"])
    with tempfile.TemporaryDirectory() as folder:
        known = works(Path(folder))
        for work in known.values():
            # buffers are made, and the server of the workers is started
            work()
        print(json.dumps({"threads": torch.get_num_threads()}), flush=True)
        for line in sys.stdin:
            started = time.perf_counter()
            units = known[json.loads(line)["work"]]()
            seconds = time.perf_counter() - started
            print(json.dumps({"seconds": seconds, "units": units}), flush=True)


if __name__ == "__main__":
    main()
