"""What both sides of `loader_peer` share: a process that opens a loader and answers how fast batches come out of it.

Runs in any interpreter: only the standard library is needed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

QUIET_SECONDS = 0.3
Opened = tuple[Iterator[Any], dict[str, Any]]


def serve(opening: Callable[[dict[str, Any]], Opened]) -> None:
    """Reads settings from the command line, opens the loader, and then answers one JSON object for each line.

    {"batches": n} -> the seconds that n batches took by the clock and of processors, and the memory held meanwhile. {"again": true} -> the seconds until the
    first batch of a second loader in this process. An answer comes when nothing is made ahead any longer, so that the other
    side is not disturbed; what was made ahead is taken before the clock starts.

    Args:
        opening: gives an endless iterator of batches and facts about it, from the settings.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    settings = json.loads(sys.argv[1])
    start = time.perf_counter()
    batches, facts = opening(settings)
    next(batches)
    first = time.perf_counter() - start
    rest()
    tell(answers, {"first": first, "memory": memory(), **facts})
    for line in sys.stdin:
        request = json.loads(line)
        if "again" in request:
            start = time.perf_counter()
            second, _ = opening(settings)
            next(second)
            found = {"first": time.perf_counter() - start}
            del second
        else:
            for _ in range(facts["ahead"]):
                next(batches)
            start, busy = time.perf_counter(), seconds()
            for _ in range(request["batches"]):
                batch = next(batches)
            found = {
                "seconds": time.perf_counter() - start,
                "cpu": seconds() - busy,
                "memory": memory(),
            }
            del batch
        rest()
        tell(answers, found)


def tell(answers: Any, found: dict[str, Any]) -> None:
    print(json.dumps(found), file=answers, flush=True)


def memory() -> dict[str, float]:
    """MiB of this process and its workers, what they share counted once: `held`, and `cached`, the pages of files that the
    system keeps while nobody needs the room."""
    found = {"held": 0.0, "cached": 0.0}
    for process in family():
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:  # it has ended meanwhile
            continue
        sizes = {
            name: int(value.split()[0]) / 1024
            for name, value in (line.split(":") for line in lines)
        }
        found["held"] += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
        found["cached"] += sizes["Pss_File"]
    return {name: round(value, 1) for name, value in found.items()}


def rest() -> None:
    """Returns when neither this process nor its workers do anything."""
    busy = seconds()
    while True:
        time.sleep(QUIET_SECONDS)
        now = seconds()
        if now - busy < 0.1 * QUIET_SECONDS:
            return
        busy = now


def seconds() -> float:
    """Processor seconds of this process and its workers so far."""
    total, ticks = 0, os.sysconf("SC_CLK_TCK")
    for process in family():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / ticks


def family() -> list[int]:
    """This process and those that it started, directly or not."""
    found, waiting = [], [os.getpid()]
    while waiting:
        process = waiting.pop()
        found.append(process)
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found
