"""Trains without interruption, then again while being killed with SIGKILL; run by test_resume.

The trainings are forks of this process, so that what is imported is imported once.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

from training_toy import ToyTrainConfig, toy_config

from vla.training import train


def begin(config: ToyTrainConfig) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(config,), kwargs={"resume": True}
    )
    process.start()
    return process


def main(data: Path, out: Path, kills: int) -> None:
    changes = {"steps": 60, "save_every": 5, "validate_every": 10, "log_every": 1}
    whole = begin(toy_config(data, out / "whole", **changes))
    whole.join()
    assert whole.exitcode == 0

    rng = random.Random(int.from_bytes(os.urandom(4)))
    config, metrics = toy_config(data, out / "killed", **changes), out / "killed" / "metrics.jsonl"
    for kill in range(kills):
        process = begin(config)
        target = rng.randrange(1 + 10 * kill, 10 + 10 * kill)
        while process.is_alive() and (
            not metrics.exists() or len(metrics.read_text().splitlines()) < target
        ):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        assert process.is_alive(), "the training ended before it was killed"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        print("killed after", metrics.read_text().count("\n"), "lines", flush=True)
    last = begin(config)
    last.join()
    assert last.exitcode == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
