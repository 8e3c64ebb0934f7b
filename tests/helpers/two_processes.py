"""Trains on two processes, then on one; run by test_gradient_surgery.

The two are forks of this process, so that what is imported is imported once.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

from training_toy import toy_config

from vla.training import train


def rank(number: int, port: int, data: Path, out: Path, changes: dict[str, Any]) -> None:
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
    train(toy_config(data, out, **changes))


def main(data: Path, out: Path, changes: dict[str, Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=rank, args=(number, port, data, out / "two", changes))
        for number in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    train(toy_config(data, out / "one", **changes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), ast.literal_eval(sys.argv[3]))
