"""Trains on several robots in two processes; run by test_multi_robot_training, which trains in one.

The two are forks of this process, so that what is imported is imported once.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from pathlib import Path

from mixed_robots_toy import two_processes_config

from vla.training import train


def rank(number: int, port: int, robots: Path, out: Path) -> None:
    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    train(two_processes_config(robots, out / "two"))


def main(robots: Path, out: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=rank, args=(number, port, robots, out)) for number in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
