"""What d3rlpy's sides share, in an interpreter that has d3rlpy 2.8.1: episodes, clocked updates, and the answering of
requests. Runs without this package."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import d3rlpy
import gymnasium
import numpy as np
import structlog
import torch
from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer
from d3rlpy.logging import NoopAdapter, NoopAdapterFactory

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def load(path: str, *, fraction: float = 1.0) -> ReplayBuffer:
    """The episodes of the npz file as d3rlpy keeps them; with `fraction` the best by their return, ties to the earlier."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    cuts = np.cumsum(arrays["lengths"])[:-1]
    states, actions, rewards = (
        np.split(arrays[name], cuts) for name in ("states", "actions", "rewards")
    )
    order = np.argsort([-one.sum(dtype=np.float64) for one in rewards], kind="stable")
    chosen = order[: max(1, round(fraction * len(order)))]
    episodes = [
        Episode(states[i], actions[i], rewards[i][:, None], bool(arrays["terminated"][i]))
        for i in sorted(chosen)
    ]
    return ReplayBuffer(InfiniteBuffer(), episodes=episodes)


def update(algo: Any, data: ReplayBuffer, updates: int) -> dict[str, float]:
    """So many updates by `fit`, without logging, progress bar and saving -> seconds by both clocks, and the last loss."""
    loss = _LastLoss()
    wall, cpu = time.perf_counter(), time.process_time()
    algo.fit(
        data,
        n_steps=updates,
        n_steps_per_epoch=updates,
        logger_adapter=loss,
        show_progress=False,
        save_interval=updates + 1,
    )
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu} | loss.values


class _LastLoss(NoopAdapter, NoopAdapterFactory):
    """A logger that keeps the mean losses of the last epoch, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, float] = {}

    def create(self, algo: Any, experiment_name: str, n_steps_per_epoch: int) -> _LastLoss:
        return self

    def write_metric(self, epoch: int, step: int, name: str, value: float) -> None:
        if name.endswith("loss"):
            self.values[name] = float(value)


def serve(prepare: Callable[[dict[str, Any]], tuple[Answer, dict[str, Any]]]) -> None:
    """Tells facts, then answers each line of JSON on the standard input with one, until it is closed.

    Args:
        prepare: the settings, a JSON object that is the program's only argument -> what answers a request, and facts beside
            the versions. `seed` and `threads` of the settings are heeded here.
    """
    settings = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(settings["threads"])
    torch.set_flush_denormal(True)
    d3rlpy.seed(settings["seed"])
    answer, facts = prepare(settings)
    facts |= {
        "d3rlpy": d3rlpy.__version__,
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
