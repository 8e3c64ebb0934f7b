"""One control step of RT-1, one robot: the policy itself, its torch.export module, and ONNX Runtime in float32 and int8.

All sides see the same frame with the same full memory, after instruction and past frames are known. The policy keeps
FiLM's scales of an instruction between steps, a graph computes them at every step.

    python benchmarks/export.py [--rounds 50] [--threads 1] [--clock wall|cpu] [--cases small-1 small-6 official]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import (
    add_cpu_arguments,
    alternate,
    check_cpu_arguments,
    clocked,
    prepare_cpu,
    publish,
    rt1_spec,
    summary,
)
from control_step import INSTRUCTION, full_memory, settle_batch_norm
from rich.console import Console
from rich.table import Table

from vla.export import StepGraph, export_onnx, exported_program, load
from vla.models import RT1, RT1Config

SMALL = {
    "trunk": "test_efficientnet",
    "stride": 8,
    "token_positions": True,
    "width": 256,
    "depth": 2,
    "key_dim": 32,
    "feed_forward": "gelu",
    "language_dim": 128,
}
"""The sizes of configs/tabletop.yaml."""
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "small-1": ("tabletop's sizes, 96 px, 1 frame", 96, {**SMALL, "history": 1}),
    "small-6": ("tabletop's sizes, 96 px, 6 frames", 96, {**SMALL, "history": 6}),
    "official": ("official RT-1, 300 px, 6 frames", 300, {}),
}
SIDES = {
    "eager": "the policy",
    "program": "torch.export",
    "float32": "ONNX Runtime",
    "int8": "ONNX Runtime, int8",
}


def build(size: int, changes: dict[str, Any]) -> tuple[RT1, Any, Any]:
    """A policy, what its robot sees, and the memory of a robot of full age."""
    torch.manual_seed(0)
    config = RT1Config(**{"dropout": 0.0, "random_shift": (0, 0), **changes})
    policy = config.build(rt1_spec(size))
    window = policy.spec.fake_batch(1, policy.history)
    window.instruction[:] = [INSTRUCTION]
    policy.language.embed([INSTRUCTION])
    settle_batch_norm(policy, window)
    return policy, window, full_memory(policy, window)


def measure(
    size: int, changes: dict[str, Any], arguments: argparse.Namespace, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Seconds of every side, and how far the graphs are from the policy."""
    policy, window, memory = build(size, changes)
    observation = window.observation(-1)
    tell("exporting")
    graph = StepGraph(policy)
    module = exported_program(graph).module()
    works: dict[str, Callable[[], Any]] = {"eager": lambda: policy.act(observation, memory)}
    agreements, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "int8"):
            tell(f"exporting {precision}")
            out = Path(folder) / precision
            agreements[precision] = dict(export_onnx(policy, out, precision=precision).agreement)
            sizes[precision] = (out / "graph.onnx").stat().st_size
            actor = load(out, threads=arguments.threads)
            past = full_memory(actor, window)  # type: ignore[arg-type]
            works[precision] = lambda actor=actor, past=past: actor.act(observation, past)
            if precision == "float32":
                feeds = [torch.from_numpy(v) for v in actor.feeds(observation, past).values()]

    @torch.no_grad()
    def program() -> Any:
        return module(*feeds)

    works["program"] = program
    sides = {name: clocked(works[name], arguments.clock) for name in SIDES}
    times = alternate(sides, rounds=arguments.rounds, warmup=arguments.warmup, tell=tell)
    seconds = {name: summary(values) for name, values in times.items()}
    return {
        "parameters": sum(p.numel() for p in policy.parameters()),
        "seconds": seconds,
        "times_faster": {
            name: round(seconds["eager"]["median"] / seconds[name]["median"], 2) for name in SIDES
        },
        "agreement": agreements,
        "bytes": sizes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50, help="every side works once in each")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(CASES))
    add_cpu_arguments(parser)
    arguments = parser.parse_args()
    check_cpu_arguments(parser, arguments)
    prepare_cpu(arguments.threads)

    table = Table(title="One control step, one robot: median ms (times faster)")
    table.add_column("")
    for title in SIDES.values():
        table.add_column(title, justify="right")
    found = []
    with Console(stderr=True).status("building") as status:
        for name in arguments.cases:
            title, size, changes = CASES[name]
            case = measure(size, changes, arguments, status.update)
            found.append({"case": name, "title": title, **case})
            cells = [
                f"{case['seconds'][side]['median'] * 1e3:.2f} ({case['times_faster'][side]:.1f}x)"
                for side in SIDES
            ]
            table.add_row(title, *cells)
    first = found[0]["seconds"]
    publish(
        "export",
        ours=first["float32"]["median"],
        theirs=first["eager"]["median"],
        ratio=first["eager"]["median"] / first["float32"]["median"],
        unit="s per control step",
        table=table,
        cases=found,
        threads=arguments.threads,
        clock=arguments.clock,
        method="one process, sides alternate within each round and swap order, medians; denormals flushed",
    )


if __name__ == "__main__":
    main()
