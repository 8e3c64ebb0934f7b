"""Trains on two processes, one of which is killed or stopped; run by test_companions.

The two are forks of this process, so that what is imported is imported once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import typer
from training_toy import toy_config

from vla.cli.shared import clear_errors
from vla.training import train
from vla.training.distributed import companions

CHANGES = {"steps": 400, "validate_every": None, "log_every": 1, "save_every": 5, "batch_size": 4}


def rank(number: int, port: int, data: Path, out: Path, steps: int) -> None:
    companions.BEAT_SECONDS = 0.3
    companions.PATIENCE_SECONDS = 6.0
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    try:
        with clear_errors():
            train(toy_config(data, out, **{**CHANGES, "steps": steps}), resume=True)
    except typer.Exit as ended:
        # as a command ends; the destructors of a group that has lost a member may wait
        sys.stderr.flush()
        os._exit(ended.exit_code)


def begin(data: Path, out: Path, steps: int) -> list[multiprocessing.process.BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=rank, args=(number, port, data, out, steps)) for number in range(2)
    ]
    for process in ranks:
        process.start()
    return ranks


def main(data: Path, out: Path, name: str, lost: int) -> None:
    ranks = begin(data, out, 400)
    checkpoints = out / "checkpoints"
    while not list(checkpoints.glob("step-*")):
        assert ranks[0].is_alive()
        time.sleep(0.01)
    pid = ranks[lost].pid
    assert pid is not None
    os.kill(pid, getattr(signal, name))
    other = ranks[1 - lost]
    other.join(60)
    ranks[lost].kill()
    assert other.exitcode == 2, other.exitcode
    print("resumed", flush=True)
    newest = max(int(folder.name[5:]) for folder in checkpoints.glob("step-*"))
    again = begin(data, out, 400)
    deadline = time.monotonic() + 60
    while not (checkpoints / f"step-{newest + 5:06d}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    whole = (checkpoints / f"step-{newest + 5:06d}").exists()
    for process in again:
        process.kill()
    assert whole


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
