"""An evaluation that is killed and resumed, again and again, beside one that is not.

`vla eval CONFIG` plays all its episodes once undisturbed, and once killed (SIGKILL) at as many moments as `--kills` says, each
at a random number of finished episodes, and gone on with by `--resume`. Both must leave the same files, but for what tells the
time. Two costs are reported: seconds of evaluation, which results keep, and seconds by the wall clock, in which every process
also imports the package, reads the policy and starts its workers.

    python benchmarks/killed_evaluation.py CONFIG [--episodes 400] [--kills 10] [--seed 0] [policy=FOLDER ...]
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _commands import contents
from _common import publish
from rich.table import Table

from vla.config import read_yaml
from vla.sim_eval.comparison.installing import JOURNAL, UNFINISHED


def finished(journal: Path) -> int:
    """Episodes in a journal that a process is writing to."""
    try:
        return journal.read_bytes().count(b'"episode"')
    except FileNotFoundError:
        return 0


def evaluate(arguments: list[str], out: Path, *, kill_at: int | None = None) -> float:
    """Runs or goes on with the evaluation -> seconds by the wall clock.

    kill_at: a number of episodes, at which the process is killed; None for never.
    """
    command = [sys.executable, "-m", "vla.cli", "eval", *arguments, f"out={out}", "--resume"]
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while kill_at is not None and process.poll() is None:
        if finished(out / UNFINISHED / JOURNAL) >= kill_at:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    _, said = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the evaluation failed: {said[-2000:]}")
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE of the config's section eval")
    parser.add_argument(
        "--episodes", type=int, default=400, help="in all; at least as many are played"
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    tasks = len(read_yaml(arguments.config)["eval"]["env"]["tasks"])
    per_task = -(-arguments.episodes // tasks)
    called = [str(arguments.config), *arguments.overrides, f"episodes_per_task={per_task}"]
    rng = np.random.default_rng(arguments.seed)
    moments = np.sort(rng.choice(np.arange(1, per_task * tasks), arguments.kills, replace=False))
    with tempfile.TemporaryDirectory() as folder:
        # one after the other in the same place, which the config that is kept names
        out, whole, killed = (Path(folder) / name for name in ("eval", "whole", "killed"))
        undisturbed = evaluate(called, out)
        out.rename(whole)
        parts = [evaluate(called, out, kill_at=int(moment)) for moment in moments]
        parts.append(evaluate(called, out))
        out.rename(killed)
        ours, theirs = contents(killed), contents(whole)
        differing = sorted({name for name, _ in ours.items() ^ theirs.items()})
        spent = [
            json.loads((place / "results.json").read_text())["seconds"] for place in (killed, whole)
        ]
    table = Table(title=f"{per_task * tasks} episodes, killed {len(moments)} times")
    for column in ("", "undisturbed", "killed", "more"):
        table.add_column(column, justify="right" if column else "left")
    rows = {"evaluation": (spent[1], spent[0]), "wall clock": (undisturbed, sum(parts))}
    for name, (plain, disturbed) in rows.items():
        more = f"{100 * (disturbed / plain - 1):.1f} %"
        table.add_row(name, f"{plain:.1f} s", f"{disturbed:.1f} s", more)
    publish(
        "killed_evaluation",
        ours=spent[0],
        theirs=spent[1],
        ratio=spent[0] / spent[1],
        unit="seconds of the killed evaluation; theirs: of the undisturbed one",
        table=table,
        episodes=per_task * tasks,
        kills=[int(moment) for moment in moments],
        files=len(theirs),
        differing=differing,
        wall_seconds=[round(sum(parts), 3), round(undisturbed, 3)],
    )
    raise SystemExit(1 if differing else 0)


if __name__ == "__main__":
    main()
