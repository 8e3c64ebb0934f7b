"""Robots that one policy server can hold: batches over robots, against one at a time and a server that blocks.

Robots ask at their control rate whatever the server does, and what they wait is counted from the time at which an
observation was due. Capacity is the greatest number of robots with 99 % of the answers within a control period and
less than 1 % missed. Every robot's actions are compared with those of a lone robot.

    python benchmarks/serve.py [--robots 1 2 4 8 16 32] [--hz 5] [--seconds 20] [--history 6]
    python benchmarks/serve.py --soak 600      # robots that join, leave and die; memory; no two mixed up
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from _common import cpu_count, publish
from _serve_sides import load, make_policy, served, wrong_actions
from _serve_soak import soak
from rich.console import Console
from rich.table import Table

SIDES = ("max_batch=16", "max_batch=1", "blocking")


def shown(milliseconds: float | None) -> str:
    return "never" if milliseconds is None else f"{milliseconds:.1f}"


def capacity(rows: list[dict[str, Any]], hz: float) -> int:
    """The greatest number of robots that are served in time, all smaller ones too."""
    held = 0
    for row in rows:
        if row["p99_ms"] is None or row["p99_ms"] > 1000 / hz or row["misses"] >= 0.01:
            break
        held = row["robots"]
    return held


def measure(
    arguments: argparse.Namespace, folder: Path
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Rows of each side by number of robots; actions that were compared."""
    policy = make_policy(
        folder, history=arguments.history, size=arguments.image_size, device=arguments.device
    )
    rows: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    wrong: dict[str, Any] = {side: [0, 0, 0] for side in SIDES}
    done: set[str] = set()
    console = Console(stderr=True)
    for turn, robots in enumerate(arguments.robots):
        for side in SIDES if turn % 2 == 0 else reversed(SIDES):
            if side in done:
                continue
            with served(side, folder, threads=arguments.threads, device=arguments.device) as server:
                found = load(
                    server,
                    robots,
                    hz=arguments.hz,
                    seconds=arguments.seconds,
                    warmup=arguments.warmup,
                    size=arguments.image_size,
                    compared=arguments.compared,
                )
            counts = wrong_actions(
                policy, found.pop("actions"), size=arguments.image_size, threads=arguments.threads
            )
            wrong[side] = [a + b for a, b in zip(wrong[side], counts, strict=True)]
            rows[side].append({"robots": robots, **found})
            console.print(
                f"{side}, {robots} robots: p99 {shown(found['p99_ms'])} ms, {found['misses']:.1%} missed"
            )
            # far beyond what it can hold: more robots would only take time
            if found["misses"] > 0.5:
                done.add(side)
    return rows, wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--hz", type=float, default=5.0, help="control rate of the robots")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warmup", type=float, default=3.0)
    parser.add_argument("--history", type=int, default=6)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=max(1, cpu_count() // 2))
    parser.add_argument(
        "--device", default="cpu", help="of our server, cpu or cuda; blocking: the CPU"
    )
    parser.add_argument(
        "--compared", type=int, default=20, help="steps of each robot whose actions are compared"
    )
    parser.add_argument("--soak", type=float, help="seconds of robots that join, leave and die")
    arguments = parser.parse_args()
    if arguments.soak:
        soak(arguments.soak)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows, wrong = measure(arguments, Path(folder))

    table = Table(
        title=f"RT-1, {arguments.image_size} px, history {arguments.history}, {arguments.hz:g} Hz"
    )
    for column in ("server", "robots", "p50 ms", "p95 ms", "p99 ms", "missed", "CPU ms"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for side in SIDES:
        for row in rows[side]:
            times = [shown(row[key]) for key in ("p50_ms", "p95_ms", "p99_ms")]
            table.add_row(
                side,
                str(row["robots"]),
                *times,
                f"{row['misses']:.1%}",
                f"{row['cpu_ms_per_answer']:.1f}",
            )
    held = {side: capacity(rows[side], arguments.hz) for side in SIDES}
    for side, robots in held.items():
        table.add_row(f"{side}: capacity", str(robots), "", "", "", "", "")
    publish(
        "serve",
        ours=held["max_batch=16"],
        theirs=held["blocking"],
        ratio=held["max_batch=16"] / held["blocking"] if held["blocking"] else None,
        unit="robots served in time",
        table=table,
        capacity=held,
        rows=rows,
        compared={
            side: {"actions": total, "differ_in_bits": bits, "differ_by_more_than_a_bin": bins}
            for side, (total, bits, bins) in wrong.items()
        },
        hz=arguments.hz,
        history=arguments.history,
        threads=arguments.threads,
        method="sides alternate for each number of robots; open loop, waits counted from the scheduled time",
    )


if __name__ == "__main__":
    main()
