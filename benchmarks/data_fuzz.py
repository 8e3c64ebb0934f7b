"""Thousands of random corruptions of small datasets of every format: does anything pass unseen?

    python benchmarks/data_fuzz.py                # 2000 corruptions, ten kinds of dataset
    python benchmarks/data_fuzz.py --only "RLDS" --first 300 --count 50 --show found

Each corruption is a pure function of its number, which the output names, so that a single one can be run again. The outcomes
are those of `tests/helpers/fuzz.py`. Every worker has a limit of memory: what asks for terabytes must be refused as well.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from _common import cpu_count, publish

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import fuzz
import fuzz_sets

MEMORY_BYTES = 16 * 2**30
SECONDS = 300.0


def work(pipe: Any, samples: list[Any], before: dict[str, Any], folder: Path) -> None:
    """Answers numbers of corruptions with judgements, until the pipe closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while (number := pipe.recv()) is not None:
        sample = samples[number % len(samples)]
        pipe.send(fuzz.trial(sample, before[sample.name], folder, number))


class Worker:
    """A process that may die of a corruption without taking the others along."""

    def __init__(self, *args: Any) -> None:
        self._args = args
        self.number: int | None = None
        self._start()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *self._args), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, number: int) -> None:
        self.number, self.since = number, time.monotonic()
        self.pipe.send(number)

    def end(self, samples: list[Any]) -> Any:
        """The judgement; of a process that died or hangs, that."""
        late = time.monotonic() - self.since > SECONDS
        try:
            if late and not self.pipe.poll():
                self.process.kill()
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            what = "hung" if late else f"died with status {self.process.exitcode}"
            self._start()
            damage = fuzz.Damage("unknown", f"corruption {self.number}")
            return fuzz.Judged(
                samples[self.number % len(samples)].name, damage, "TRACEBACK", f"the process {what}"
            )

    def close(self) -> None:
        self.pipe.send(None)
        self.process.join()


def run(
    samples: list[Any],
    before: dict[str, Any],
    base: Path,
    numbers: list[int],
    jobs: int,
    shown: set[str],
) -> list[Any]:
    workers = [Worker(samples, before, base / f"copy-{i}") for i in range(min(jobs, len(numbers)))]
    todo, judged = numbers[::-1], []
    for worker in workers:
        worker.begin(todo.pop())
    while any(worker.number is not None for worker in workers):
        busy = [worker for worker in workers if worker.number is not None]
        ready = wait([worker.pipe for worker in busy], timeout=5)
        for worker in busy:
            if worker.pipe not in ready and time.monotonic() - worker.since < SECONDS:
                continue
            number, found = worker.number, worker.end(samples)
            judged.append(found)
            if found.outcome in shown:
                d = found.damage
                print(
                    f"{number}: {found.sample}: {d.kind} {d.place} {d.detail}: {found.outcome}\n    {found.detail}",
                    flush=True,
                )
            if len(judged) % 100 == 0:
                print(f"{len(judged)} of {len(numbers)}", flush=True)
            worker.number = None
            if todo:
                worker.begin(todo.pop())
    for worker in workers:
        worker.close()
    return judged


def table_of(judged: list[Any], key: Any, title: str) -> Any:
    from rich.table import Table

    counts = Counter((key(j), j.outcome) for j in judged)
    table = Table(title, *fuzz.OUTCOMES, box=None)
    for row in sorted({key(j) for j in judged}):
        table.add_row(row, *[str(counts[row, outcome] or "") for outcome in fuzz.OUTCOMES])
    totals = Counter(j.outcome for j in judged)
    table.add_row("all", *[str(totals[outcome]) for outcome in fuzz.OUTCOMES], style="bold")
    return table


def counts_by(judged: list[Any], key: Any) -> dict[str, dict[str, int]]:
    rows: dict[str, Counter[str]] = {}
    for j in judged:
        rows.setdefault(key(j), Counter())[j.outcome] += 1
    return {
        name: {o: rows[name][o] for o in fuzz.OUTCOMES if rows[name][o]} for name in sorted(rows)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="corruptions")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--jobs", type=int, default=cpu_count(), help="processes")
    parser.add_argument("--only", choices=list(fuzz_sets.BUILDERS), help="one kind of dataset")
    parser.add_argument(
        "--show",
        action="append",
        default=[],
        choices=fuzz.OUTCOMES,
        help="print these outcomes, too",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where the result goes; benchmarks/results/data_fuzz.json by default",
    )
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="data-fuzz-"))
    start = time.monotonic()
    try:
        samples = fuzz_sets.build(base / "clean")
        if arguments.only:
            samples = [sample for sample in samples if sample.name == arguments.only]
        before = {sample.name: fuzz.clean(sample) for sample in samples}
        numbers = list(range(arguments.first, arguments.first + arguments.count))
        judged = run(samples, before, base, numbers, arguments.jobs, {*fuzz.BAD, *arguments.show})
    finally:
        shutil.rmtree(base, ignore_errors=True)
    from rich.console import Console

    Console().print(table_of(judged, lambda j: j.damage.kind, "damage"))
    totals = Counter(j.outcome for j in judged)
    publish(
        "data_fuzz",
        ours=sum(totals[outcome] for outcome in fuzz.BAD),
        theirs=None,
        ratio=None,
        unit=f"bad outcomes of {len(judged)} corruptions",
        table=table_of(judged, lambda j: j.sample, "dataset"),
        path=arguments.out,
        outcomes={outcome: totals[outcome] for outcome in fuzz.OUTCOMES},
        datasets=counts_by(judged, lambda j: j.sample),
        damage=counts_by(judged, lambda j: j.damage.kind),
        plausible=sorted(
            {
                f"{j.sample}: {j.damage.kind} {Path(j.damage.place).suffix}"
                for j in judged
                if j.outcome == "plausible"
            }
        ),
        seconds=round(time.monotonic() - start),
    )
    raise SystemExit(1 if any(totals[outcome] for outcome in fuzz.BAD) else 0)


if __name__ == "__main__":
    main()
