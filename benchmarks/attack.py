"""Hostile inputs of many kinds: does any bring a traceback, run code, hang, grow, lead outside, or change something in silence?

    python benchmarks/attack.py                              # every kind, as many inputs as each file of attacks/ asks for
    python benchmarks/attack.py --only checkpoint_values --first 300 --count 50 --show silent

Each file of `attacks/` is a kind (`attacks/_case.py` says what it holds). An input is a pure function of its kind, the seed
and its number, which the output names, so that a single one can be run again. Inputs are read in worker processes: the
parent ends those that take too long or too much, and looks for the marks of code that ran.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from _common import cpu_count, publish
from attacks import _case
from rich.console import Console
from rich.table import Table

HANG_SECONDS = 10.0
"""Of processor time, which the load of the machine does not change."""
MEMORY_BYTES = int(1.5 * 2**30)
"""Of one worker while it reads an input, beside what the libraries took before."""
GIVEN_UP_SECONDS = 40.0
"""Of processor time, after which a worker is ended."""
WAITING_SECONDS = 120.0
"""Without any work done, after which a worker is ended: it waits for what will never come."""
OUTCOMES = ("refused", "warned", "same", "silent", "traceback", "code", "outside", "hang", "memory")
GOOD = ("refused", "warned", "same")


def work(pipe: Any, seed: int, folder: Path) -> None:
    """Answers (kind, number) with an outcome, until the pipe closes."""
    folder.mkdir(parents=True, exist_ok=True)
    # what a library prints belongs to no input's verdict, and questions meet an eager answer
    log = open(folder / "log.txt", "w")  # noqa: SIM115
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    warm: set[str] = set()
    while (asked := pipe.recv()) is not None:
        kind, number = asked
        try:
            if kind not in warm:
                _case.load(kind).warm()
                warm.add(kind)
            case = _case.prepare(kind, seed, number, folder / "input")
        except BaseException as error:
            # a mistake of the benchmark, not of what it attacks
            pipe.send(f"cannot make {kind} {number}: {error!r}")
            raise
        pipe.send("")
        _reset_peak()
        before = _memory("VmRSS")
        start = _processor_time()
        outcome, text = _case.judge(case, folder / "input")
        taken = _memory("VmHWM") - before
        pipe.send((outcome, text, _processor_time() - start, taken))


def _processor_time() -> float:
    """Seconds, with those of processes that have ended."""
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _used(process: int) -> float:
    """Processor seconds of a process, and of those that it has started and that have ended."""
    try:
        with open(f"/proc/{process}/stat") as file:
            # after the name, which may hold spaces
            numbers = file.read().rpartition(")")[2].split()[11:15]
    except OSError:  # it has just ended
        return 0.0
    return sum(map(int, numbers)) / os.sysconf("SC_CLK_TCK")


def _memory(key: str, process: int | str = "self") -> int:
    with open(f"/proc/{process}/status") as file:
        # a process that has just ended has no memory
        line = next((line for line in file if line.startswith(key)), f"{key} 0")
    return int(line.split()[1]) * 1024


class Worker:
    """A process that may die of an input without taking the others along."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder
        self._start()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=work, args=(theirs, self.seed, self.folder), daemon=True
        )
        self.process.start()
        theirs.close()
        self.asked: tuple[str, int] | None = None
        self.reads = False

    def begin(self, kind: str, number: int) -> None:
        self.asked, self.spent, self.reads = (kind, number), False, False
        self.pipe.send(self.asked)

    def made(self) -> None:
        """Takes the word that the input is there: imports, and writing it, are no part of its time
        and memory."""
        problem = self.pipe.recv()
        if problem:
            raise RuntimeError(problem)
        self.reads, self.hangs = True, False
        self.before = self.used = _used(self.process.pid or 0)
        self.since = self.worked = time.monotonic()
        self.base = _memory("VmRSS", self.process.pid or 0)

    def watch(self) -> None:
        """Ends the process if its input takes too long, or twice the memory that it may."""
        if not self.reads or not self.process.is_alive():
            return
        if _memory("VmRSS", self.process.pid or 0) - self.base > 2 * MEMORY_BYTES:
            self.spent = True
            self.process.kill()
            return
        used = _used(self.process.pid or 0)
        if used > self.used:
            self.used, self.worked = used, time.monotonic()
        waits = time.monotonic() - self.worked > WAITING_SECONDS
        if waits or self.used - self.before > GIVEN_UP_SECONDS:
            self.hangs = True
            self.process.kill()

    def end(self) -> tuple[str, str, float, int]:
        """The outcome of the input: what it is, in words, processor seconds, bytes at the most."""
        try:
            outcome, text, seconds, taken = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            seconds = time.monotonic() - self.since
            status = self.process.exitcode
            self._start()
            if self.spent:
                return "memory", "more than twice of what it may", seconds, 2 * MEMORY_BYTES
            if self.hangs:
                return "hang", f"no end after {seconds:.0f} s", seconds, 0
            return "traceback", f"the process died with status {status}", seconds, 0
        self.asked, self.reads = None, False
        if outcome in GOOD and seconds > HANG_SECONDS:
            outcome, text = "hang", f"{seconds:.1f} s; {text}"
        elif outcome in GOOD and taken > MEMORY_BYTES:
            outcome, text = "memory", f"{taken / 2**20:.0f} MiB; {text}"
        return outcome, text, seconds, taken


@dataclass
class Kind:
    """What the inputs of a kind came to.

    Attributes:
        outcomes: how many of each.
        seconds: of processor time, the most that an input took.
        memory: bytes beside what was taken before, the most of an input.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    memory: int = 0


def run(
    inputs: list[tuple[str, int]], seed: int, workers: int, show: set[str]
) -> tuple[dict[str, Kind], list[str]]:
    """What each kind came to, and a line for each input that did not end well."""
    root = Path(tempfile.mkdtemp(prefix="attack-"))
    crew = [Worker(seed, root / f"worker-{number}") for number in range(workers)]
    waiting = list(reversed(inputs))
    counts: dict[str, Kind] = {}
    bad: list[str] = []
    for worker in crew:
        if waiting:
            worker.begin(*waiting.pop())
    try:
        while busy := [worker for worker in crew if worker.asked is not None]:
            ready = wait([worker.pipe for worker in busy], timeout=0.1)
            for worker in busy:
                if worker.pipe not in ready:
                    worker.watch()
                    continue
                if not worker.reads:
                    worker.made()
                    continue
                assert worker.asked is not None
                kind, number = worker.asked
                outcome, text, seconds, taken = worker.end()
                found = counts.setdefault(kind, Kind())
                found.outcomes[outcome] += 1
                found.seconds = max(found.seconds, seconds)
                found.memory = max(found.memory, taken)
                line = f"{kind} {number}: {outcome}: {text}"
                if outcome not in GOOD:
                    bad.append(line)
                if outcome not in GOOD or outcome in show:
                    print(line, flush=True)
                if waiting:
                    worker.begin(*waiting.pop())
    finally:
        for worker in crew:
            worker.process.kill()
        shutil.rmtree(root, ignore_errors=True)
    return counts, bad


def _values(kind: Kind) -> dict[str, Any]:
    return {
        "inputs": kind.outcomes.total(),
        **{name: kind.outcomes[name] for name in OUTCOMES},
        "most_seconds": round(kind.seconds, 2),
        "most_mib": round(kind.memory / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=_case.kinds(), help="kinds; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each")
    parser.add_argument("--count", type=int, help="inputs of each kind; as many as it asks for")
    parser.add_argument("--workers", type=int, default=cpu_count())
    parser.add_argument("--show", nargs="*", default=[], choices=OUTCOMES, help="lines of these")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/attack.json")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # a hub that is out of reach is part of the tests, an answer of it would not be reproducible
    os.environ["HF_HUB_OFFLINE"] = "1"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    inputs = []
    for kind in options.only or _case.kinds():
        count = options.count or _case.load(kind).COUNT
        inputs += [(kind, options.first + number) for number in range(count)]
    start = time.monotonic()
    counts, bad = run(inputs, options.seed, options.workers, set(options.show))
    total: Counter[str] = sum((kind.outcomes for kind in counts.values()), Counter())
    table = Table("kind", "inputs", *OUTCOMES, "most s", "most MiB", box=None)
    for name, kind in sorted(counts.items()):
        numbers = [kind.outcomes[outcome] for outcome in OUTCOMES]
        most = [f"{kind.seconds:.1f}", f"{kind.memory / 2**20:.0f}"]
        table.add_row(name, str(kind.outcomes.total()), *map(str, numbers), *most)
    values = {
        "seed": options.seed,
        "inputs": total.total(),
        "seconds": round(time.monotonic() - start, 1),
        "outcomes": {name: total[name] for name in OUTCOMES},
        "kinds": {name: _values(kind) for name, kind in sorted(counts.items())},
        "bad": bad[:50],
    }
    if options.save:
        publish("attack", ours=None, theirs=None, ratio=None, unit="inputs", table=table, **values)
    else:
        Console(width=120).print(table)
        print(json.dumps(values))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
