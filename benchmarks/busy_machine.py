"""Training, collection and evaluation beside programs that want the same cores, by how idle OpenMP threads wait.

Three processes with two threads each do the same work in turns, in swapped order in every second round:

- `default`: nothing is set, idle threads spin for milliseconds;
- `spin count`: GOMP_SPINCOUNT=10000 (KMP_BLOCKTIME=1 for LLVM's library), what `vla` sets where its start finds the
  machine quiet;
- `passive`: OMP_WAIT_POLICY=PASSIVE, what `vla` sets where the load at its start is above the cores.

Each work is measured beside `--spinners` processes that do nothing but compute, and on the machine as it is (the result
keeps its load average). Training is a step of the demo's RT-1 on 64 windows; collection and evaluation are two short
episodes of tabletop with pictures, in the process itself. Each cell is measured for `--seconds` and at least one round;
no cell is begun after `--minutes`, and the result names those that were left out. The spinning processes end with this one, however it ends.

    python benchmarks/busy_machine.py [--spinners 10] [--seconds 20] [--minutes 3.5]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from _common import cpu_count, publish
from _process import JsonProcess

from vla.common.busy import WAIT_VARIABLES, idle_thread_variables
from vla.common.printing.tables import Table, whole

SIDES = {
    "default": {},
    "spin count": idle_thread_variables({}, load=0.0),
    "passive": idle_thread_variables({}, load=2.0),
}
WORKS = {"train": "frames/s", "evaluate": "episodes/s", "collect": "episodes/s"}
# a killed benchmark must leave nothing behind that takes the machine's time
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10**6))"


@contextlib.contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that compute and nothing else."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", SPIN])
            # the last on the stack is the first: killed, then waited for
            stack.callback(process.wait)
            stack.callback(process.kill)
        # until they all compute
        time.sleep(1.0 if count else 0.0)
        yield


def rounds(processes: dict[str, JsonProcess], work: str, seconds: float) -> dict[str, list[float]]:
    """Side -> units per second of each round."""
    speeds: dict[str, list[float]] = {name: [] for name in processes}
    until = time.monotonic() + seconds
    turn = 0
    while turn == 0 or time.monotonic() < until:
        for name in list(processes) if turn % 2 == 0 else list(reversed(processes)):
            answer = processes[name].ask(work=work)
            speeds[name].append(answer["units"] / answer["seconds"])
        turn += 1
    return speeds


def cases_of(
    processes: dict[str, JsonProcess], work: str, spinners: int, seconds: float
) -> list[dict[str, Any]]:
    """A row for each side, beside so many spinning processes."""
    load = os.getloadavg()[0]
    print(f"{work} beside {spinners} spinning processes", file=sys.stderr, flush=True)
    # sides that only wait take no time from the one that works
    with spinning(spinners):
        speeds = rounds(processes, work, seconds)
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    cases = []
    for name, median in medians.items():
        case = {
            "work": work,
            "spinners": spinners,
            "side": name,
            "median": round(median, 3),
            "unit": WORKS[work],
            "times_default": round(median / medians["default"], 2),
            "rounds": len(speeds[name]),
            "load_at_start": round(load, 1),
        }
        cases.append(case)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spinners", type=int, default=10, help="processes beside")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each cell")
    parser.add_argument("--threads", type=int, default=cpu_count(), help="threads of each side")
    parser.add_argument("--minutes", type=float, default=3.5, help="no cell begins after these")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    for name in (*WAIT_VARIABLES, "OMP_NUM_THREADS"):
        os.environ.pop(name, None)
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, variables in SIDES.items():
            settings = {"threads": arguments.threads}
            side = JsonProcess(sys.executable, "_busy_sides.py", settings, variables)
            stack.callback(side.close)
            processes[name] = side
        cases = []
        left_out = []
        for work in WORKS:
            for spinners in (arguments.spinners, 0):
                # the first is what it is all about
                if cases and time.monotonic() > until:
                    left_out.append(f"{work} beside {spinners}")
                else:
                    cases += cases_of(processes, work, spinners, arguments.seconds)
    heads = ("work", "spinners", "side", "median", "unit", "times default", "rounds")
    table = Table(*whole(*heads), title=f"{arguments.threads} threads")
    for case in cases:
        shown = [str(value) for key, value in case.items() if key != "load_at_start"]
        table.add_row(*shown)
    beside = {
        case["side"]: case["median"]
        for case in cases
        if case["work"] == "train" and case["spinners"]
    }
    publish(
        "busy_machine",
        ours=beside["passive"],
        theirs=beside["default"],
        ratio=beside["passive"] / beside["default"],
        unit=f"frames/s of training beside {arguments.spinners} spinning processes, passive; "
        "theirs: nothing set",
        table=table,
        threads=arguments.threads,
        cases=cases,
        left_out=left_out,
        method="three processes in turns, reversed in every second round; medians",
    )


if __name__ == "__main__":
    main()
