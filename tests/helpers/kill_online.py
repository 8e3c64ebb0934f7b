"""Plays and learns rounds without interruption, then again while being killed with SIGKILL; run by test_online_resume.

The runs are forks of this process, so that what is imported is imported once.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from vla.config import validate
from vla.recipes.online import OnlineConfig, online

ROUNDS = 6


def config_of(out: Path) -> OnlineConfig:
    tokens = {"head": {"type": "categorical"}, "tokenizer": {"type": "bins", "num_bins": 5}}
    values: dict[str, Any] = {
        "env": {"type": "stitch", "horizon": 20},
        "policy": {"type": "mlp", "hidden": 16, "language": None, **tokens},
        "objective": {"type": "bc"},
        "rounds": ROUNDS,
        "episodes_per_round": 8,
        "updates": 20,
        "batch_size": 16,
        "keep": 300,
        "evaluate": {"every": 2, "episodes_per_task": 2},
    }
    return validate(OnlineConfig, {**values, "out": str(out)})


def begin(config: OnlineConfig) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(
        target=online, args=(config,), kwargs={"resume": True}
    )
    process.start()
    return process


def main(out: Path, kills: int) -> None:
    whole = begin(config_of(out / "whole"))
    whole.join()
    assert whole.exitcode == 0

    rng = random.Random(int.from_bytes(os.urandom(4)))
    config, metrics = config_of(out / "killed"), out / "killed" / "metrics.jsonl"
    for kill in range(kills):
        process = begin(config)
        target = rng.randrange(kill, kill + 2)
        while process.is_alive() and (
            not metrics.exists() or len(metrics.read_text().splitlines()) < target
        ):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        assert process.is_alive(), "the run ended before it was killed"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        lines = metrics.read_text().count("\n") if metrics.exists() else 0
        print("killed after", lines, "rounds", flush=True)
    last = begin(config)
    last.join()
    assert last.exitcode == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
