"""How many official starts of LIBERO the scripted experts solve, task by task.

    python benchmarks/libero_experts.py [--suites libero_object libero_spatial libero_goal] [--starts 10]
        [--minutes 9] [--kept runs/libero_experts.jsonl]

Plays the official starts 0, 1, ... of each task that the expert can try, without pictures, and judges by LIBERO's own
`check_success` within the published horizon. Tasks that were played before, by at least as many starts, are read from
`--kept`, so the benchmark may be stopped (`--minutes`) and called again; the result is written when all are there. Needs
`pip install 'vla[libero]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import publish
from rich.table import Table

# numba looks for the package `coverage`, and would find the benchmark of that name beside this file
sys.modules["coverage"] = None  # type: ignore[assignment]
SUITES = ["libero_object", "libero_spatial", "libero_goal"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suites", nargs="+", default=SUITES)
    parser.add_argument("--starts", type=int, default=10, help="official starts of each task")
    parser.add_argument(
        "--backwards", action="store_true", help="begin with the last task: two share the work"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no task begins")
    parser.add_argument("--kept", type=Path, default=Path("runs/libero_experts.jsonl"))
    arguments = parser.parse_args()
    from vla.sim_eval.envs.libero import LiberoConfig
    from vla.sim_eval.envs.libero_parts.suites import suite_tasks

    versions = LiberoConfig().versions()
    rows = known(arguments.kept, arguments.starts)
    end = time.monotonic() + 60 * arguments.minutes
    for suite in arguments.suites:
        order = suite_tasks(suite)[:: -1 if arguments.backwards else 1]
        for task in order:
            # again, for others may have written meanwhile
            rows |= known(arguments.kept, arguments.starts)
            if (suite, task.name) in rows:
                continue
            if time.monotonic() > end:
                raise SystemExit(f"stopped after {len(rows)} tasks; call it again to go on")
            row = {"suite": suite, "task": task.name, **played(suite, task, arguments.starts)}
            rows[suite, task.name] = row
            arguments.kept.parent.mkdir(parents=True, exist_ok=True)
            with arguments.kept.open("a") as file:
                file.write(json.dumps({"starts": arguments.starts, **row}) + "\n")
            print(row, flush=True)
    tasks = [rows[suite, task.name] for suite in arguments.suites for task in suite_tasks(suite)]
    solved = sum(row["solved"] for row in tasks)
    tried = sum(row["episodes"] for row in tasks)
    publish(
        "libero_experts",
        ours=solved / tried,
        theirs=None,
        ratio=None,
        unit="share of official starts solved, of the tasks that an expert tries",
        table=table(tasks),
        tasks=tasks,
        simulation=versions,
    )


def known(kept: Path, starts: int) -> dict[tuple[str, str], dict[str, Any]]:
    """(suite, task) -> what was played before, by at least as many starts."""
    rows = {}
    for line in kept.read_text().splitlines() if kept.exists() else ():
        row = json.loads(line)
        if row.pop("starts") >= starts:
            rows[row["suite"], row["task"]] = row
    return rows


def played(suite: str, task: Any, starts: int) -> dict[str, Any]:
    """Solved starts and steps; no episodes if no expert knows the goal."""
    from vla.sim_eval.envs.libero_parts.experts import expert_of
    from vla.sim_eval.envs.libero_parts.simulation import Simulation
    from vla.sim_eval.envs.libero_parts.suites import horizon_of

    simulation = Simulation(task)
    steps, failed = [], []
    try:
        for number, start in enumerate(task.start_states()[:starts]):
            simulation.restore(start)
            try:
                expert = expert_of(simulation)
            except RuntimeError:
                return {"solved": 0, "episodes": 0, "failed": [], "median_steps": None}
            for step in range(1, horizon_of(suite) + 1):
                # as the env hands it over: clipped, and in the precision of a dataset
                action = np.clip(expert.action(), -1.0, 1.0).astype(np.float32)
                if simulation.step(action):
                    steps.append(step)
                    break
            else:
                failed.append(number)
    finally:
        simulation.close()
    return {
        "solved": len(steps),
        "episodes": len(steps) + len(failed),
        "failed": failed,
        "median_steps": float(np.median(steps)) if steps else None,
    }


def table(tasks: list[dict[str, Any]]) -> Table:
    shown = Table(title="Scripted experts on official starts")
    for column in ("suite", "task", "solved", "median steps"):
        shown.add_column(column)
    for row in tasks:
        counts = f"{row['solved']} of {row['episodes']}" if row["episodes"] else "no expert"
        shown.add_row(row["suite"], row["task"], counts, str(row["median_steps"] or ""))
    return shown


if __name__ == "__main__":
    main()
