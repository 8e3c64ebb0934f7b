"""A writing process that is killed, again and again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.data import EpisodeDataset

# Forks a fresh writing process for each line it reads, so that the imports are paid once. A child logs an
# episode only after add_episode has returned.
_WRITER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from numbered_episodes import SPEC, make_episode
from vla.data import DatasetWriter
{imports}
for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)
        continue
    log = open(sys.argv[3], "a")
    with DatasetWriter(sys.argv[2], SPEC, resume=True{options}) as writer:
        while True:
            print(writer.add_episode(make_episode(writer.num_episodes)), file=log, flush=True)
"""


def killed_writer(
    root: Path, log: Path, *, times: int, imports: str = "", options: str = ""
) -> Iterator[EpisodeDataset]:
    """The dataset at `root` after each of the kills, none of whose acknowledged episodes is lost.

    Args:
        imports: further lines of the writing program.
        options: further arguments of its writer, each with a comma before it.
    """
    log.touch()
    program = _WRITER.format(imports=imports, options=options)
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(root), str(log)]
    rng = np.random.default_rng(0)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for _ in range(times):
            before = len(log.read_text().splitlines())
            server.stdin.write("write\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            while len(log.read_text().splitlines()) == before:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
            assert server.stdout.readline() == "dead\n"
            dataset = EpisodeDataset(root)
            # One more than acknowledged: it was committed, and the kill came before the log.
            assert dataset.num_episodes - len(log.read_text().splitlines()) in (0, 1)
            log.write_text("".join(f"{i}\n" for i in range(dataset.num_episodes)))
            yield dataset
        server.stdin.close()
