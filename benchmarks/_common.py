"""What all benchmarks share: a fair clock, a description of the machine, and how a result is shown and stored."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
PACKAGES = ("torch", "timm", "transformers", "numpy")


def prepare_cpu(threads: int) -> None:
    """Fixes the number of threads and flushes denormals; call it before anything is computed.

    The flag belongs to a thread and is inherited: set before torch starts its pool, it holds in all of them. Without
    it an untrained EfficientNet in evaluation mode, whose signals decay to denormals, is 5 to 10 times slower.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def alternate(
    sides: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    warmup: int,
    tell: Callable[[str], None] | None = None,
) -> dict[str, list[float]]:
    """Calls all sides in turn, in every second round in reverse order, so that a busy machine hurts all alike.

    Args:
        sides: name -> a function that works once and returns the seconds it took.

    Returns:
        name -> seconds of every round after the warm-up.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warmup, rounds):
        for name in list(sides) if turn % 2 == 0 else list(reversed(sides)):
            seconds = sides[name]()
            if turn >= 0:
                times[name].append(seconds)
        if tell is not None:
            tell(
                f"warm-up {turn + warmup + 1}/{warmup}"
                if turn < 0
                else f"round {turn + 1}/{rounds}"
            )
    return times


def clocked(work: Callable[[], Any], clock: str = "wall") -> Callable[[], float]:
    """`work` with its result replaced by the seconds it took by one of CLOCKS."""
    now = CLOCKS[clock]

    def run() -> float:
        start = now()
        work()
        return now() - start

    return run


def add_cpu_arguments(parser: argparse.ArgumentParser) -> None:
    """`--threads` and `--clock`; see `check_cpu_arguments`."""
    parser.add_argument("--threads", type=int, default=cpu_count(), help="threads of each side")
    parser.add_argument(
        "--clock",
        choices=sorted(CLOCKS),
        default="wall",
        help="cpu: processor time of one thread, what the wall clock would show were the machine not shared",
    )


def check_cpu_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Processor time counts all threads of a process together, waiting ones too: it means something for one only."""
    if arguments.clock == "cpu" and arguments.threads != 1:
        parser.error("--clock cpu needs --threads 1")


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and minimum, rounded."""
    low, middle, high = (
        statistics.quantiles(seconds, n=4, method="inclusive")
        if len(seconds) > 1
        else [seconds[0]] * 3
    )
    numbers = {"median": middle, "q25": low, "q75": high, "min": min(seconds)}
    return {key: round(value, 6) for key, value in numbers.items()}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import psutil
    import torch

    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "os": platform.system(),
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30)
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of what does the work."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def publish(
    name: str,
    *,
    ours: float | None,
    theirs: float | None,
    ratio: float | None,
    unit: str,
    table: Any,
    path: Path | None = None,
    **details: Any,
) -> dict[str, Any]:
    """Prints `table`, stores the result under results/, and prints it as the last line: one JSON object."""
    from rich.console import Console

    result = {
        "name": name,
        "ours": None if ours is None else round(ours, 6),
        "theirs": None if theirs is None else round(theirs, 6),
        "ratio": None if ratio is None else round(ratio, 2),
        "unit": unit,
        "machine": machine(),
        **details,
        "versions": versions(),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    Console().print(table)
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), flush=True)
    return result


def rt1_spec(image_size: int) -> Any:
    """The robot of RT-1: one camera, 11 action tokens, 3 Hz."""
    from vla.types import Spec

    names = [
        "terminate",
        "x",
        "y",
        "z",
        "roll",
        "pitch",
        "yaw",
        "gripper",
        "base_x",
        "base_y",
        "base_yaw",
    ]
    reach = [1.0, 1.0, 1.0, 1.0, 1.5708, 1.5708, 1.5708, 1.0, 1.0, 1.0, 3.1416]
    low = [0.0, *(-value for value in reach[1:])]
    return Spec({"head": (image_size, image_size)}, (), tuple(names), tuple(low), tuple(reach), 3)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
