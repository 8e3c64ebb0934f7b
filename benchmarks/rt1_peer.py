"""RT-1 of this package against PyPI's `robotic-transformer-pytorch`: the same 6 frames of 224 px, on the CPU.

Each side runs in its own process and environment; this driver has them work in turn, one at a time.
`make bench-rt1_peer` makes the peer's environment, `.venv-peer`, first.

    python benchmarks/rt1_peer.py [--rounds 9] [--threads N] [--clock wall|cpu]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import add_cpu_arguments, alternate, check_cpu_arguments, publish, summary
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
WORK = ("forward", "train")


class Side:
    """One side's process."""

    def __init__(self, name: str, python: str | Path, threads: int, clock: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [str(python), str(HERE / "_rt1_sides.py"), name, str(threads), clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)},
        )
        self.facts = self._answer()

    def clock(self, case: str, batch: int) -> Callable[[], float]:
        """A function that has the side work once and returns its seconds."""

        def run() -> float:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"case": case, "batch": batch}) + "\n")
            self.process.stdin.flush()
            return self._answer()["seconds"]

        return run

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"rt1_peer: the side {self.name!r} ended with status {self.process.wait()}; see above"
            )
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def peer_version(python: Path) -> str:
    code = "import importlib.metadata as m; print(m.version('robotic-transformer-pytorch'))"
    return subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def measure(
    sides: dict[str, Side], batches: list[int], rounds: int, warmup: int
) -> list[dict[str, Any]]:
    """One row per case, with both sides' seconds and their ratio."""
    rows = []
    with Console(stderr=True).status("measuring") as status:
        for case, batch in itertools.product(WORK, batches):
            times = alternate(
                {name: side.clock(case, batch) for name, side in sides.items()},
                rounds=rounds,
                warmup=warmup,
                tell=lambda text, case=case, batch=batch: status.update(
                    f"{case}, batch {batch}: {text}"
                ),
            )
            ours, theirs = summary(times["ours"]), summary(times["peer"])
            ratio = round(theirs["median"] / ours["median"], 2)
            rows.append(
                {"case": case, "batch": batch, "ours": ours, "theirs": theirs, "ratio": ratio}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=9,
        help="measured rounds per case; both sides work once in each",
    )
    parser.add_argument("--warmup", type=int, default=2)
    add_cpu_arguments(parser)
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        choices=(1, 2),
        default=[1, 2],
        help="2 needs 16 GiB of memory",
    )
    parser.add_argument(
        "--peer", type=Path, default=Path(".venv-peer/bin/python"), help="the peer's interpreter"
    )
    arguments = parser.parse_args()
    check_cpu_arguments(parser, arguments)
    if not arguments.peer.is_file():
        print(
            f"rt1_peer: no interpreter {arguments.peer}: run `make bench-rt1_peer`, which makes it",
            file=sys.stderr,
        )
        raise SystemExit(2)
    sides = {
        "ours": Side("ours", sys.executable, arguments.threads, arguments.clock),
        "peer": Side("peer", arguments.peer, arguments.threads, arguments.clock),
    }
    rows = measure(sides, arguments.batches, arguments.rounds, arguments.warmup)
    for side in sides.values():
        side.close()

    name = f"robotic-transformer-pytorch {peer_version(arguments.peer)}"
    table = Table(title="RT-1, 6 frames of 224 px, CPU: median ms")
    for column in ("", "batch", "ours", name, "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        ours, theirs = (f"{row[side]['median'] * 1e3:.0f}" for side in ("ours", "theirs"))
        table.add_row(row["case"], str(row["batch"]), ours, theirs, f"{row['ratio']:.2f}")
    worst = min(rows, key=lambda row: row["ratio"])
    publish(
        "rt1_peer",
        ours=worst["ours"]["median"],
        theirs=worst["theirs"]["median"],
        ratio=worst["ratio"],
        unit=f"s per {worst['case']} of batch {worst['batch']}, the case with the least ratio",
        table=table,
        cases=rows,
        peer=name,
        torch={side: sides[side].facts["torch"] for side in sides},
        parameters={side: sides[side].facts["parameters"] for side in sides},
        threads=arguments.threads,
        clock=arguments.clock,
        method=(
            "two processes that work in turn, order swapped in every second round, medians; denormals flushed, same "
            "threads, same optimizer (Adam); ours starts from uint8 frames, the peer from finished floats; sentence "
            "vectors given to both; ours: official configuration at 224 px, peer: its README's (MaxViT trunk)"
        ),
    )


if __name__ == "__main__":
    main()
