"""Two commands write to one folder: the second is refused at once, and the first ends as if it had been alone.

In every pair the first command is stopped (SIGSTOP) at a random moment while it holds the folder, the second is run on
the same folder, and the first goes on. The second must end with status 2 and one line that says why; the files of the
first are compared with those of an undisturbed run, without times.

    python benchmarks/collisions.py [--pairs 100] [--seed 0]
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from _commands import Commands, contents, prepare, tiny

FIRST = (
    *("collect", "convert", "merge", "filter", "delete", "label", "split", "resample"),
    *("train", "train-iql", "train-rc", "eval", "compare", "fqe", "tokenizer"),
)
"""Commands of which one is running. `eval` writes beside the others, so its second is another `eval`."""
REFUSED = "another process writes to it"


def is_held(folder: Path, command: str) -> bool:
    """Whether a process holds the folder, or the file in it that stands for it."""
    path = folder / ".eval.lock" if command == "eval" else folder
    if not path.exists():
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


class Collision:
    """Pairs of commands in one scratch folder.

    Args:
        commands: runs them.
        source: what `_commands.prepare` has made.
        scratch: for what they write.
    """

    def __init__(self, commands: Commands, source: Path, scratch: Path) -> None:
        self.commands, self.source, self.scratch = commands, source, scratch
        self.out = scratch / "out"
        self._alone: dict[str, tuple[dict[str, str], float]] = {}

    def alone(self, command: str) -> tuple[dict[str, str], float]:
        """What the command leaves undisturbed, and the seconds for which it holds the folder."""
        if command not in self._alone:
            process = self._begin(command)
            started = time.monotonic()
            assert self.commands.wait(process) == 0, self._said("first")
            self._alone[command] = contents(self.out), time.monotonic() - started
        return self._alone[command]

    def pair(self, first: str, second: str, moment: float) -> str | None:
        """What went wrong; None if nothing did.

        moment: when the second comes, as a part of the time for which the first holds the folder.
        """
        expected, seconds = self.alone(first)
        process = self._begin(first)
        time.sleep(moment * seconds)
        os.kill(process, signal.SIGSTOP)
        try:
            if not is_held(self.out, first):
                return "not held"
            started = time.monotonic()
            status = self.commands.run(self._arguments(second), self.scratch / "second")
            waited = time.monotonic() - started
        finally:
            os.kill(process, signal.SIGCONT)
            ended = self.commands.wait(process)
        said = self._said("second")
        if status != 2 or REFUSED not in said or "Traceback" in said:
            return f"{second} behind {first}: status {status} after {waited:.1f} s: {said[-300:]}"
        said = self._said("first")
        if ended != 0:
            return f"{first} before {second}: status {ended}: {said}"
        other = contents(self.out).items() ^ expected.items()
        if other:
            names = ", ".join(sorted({name for name, _ in other}))
            return f"{first} before {second}: {names} differ: {said}"
        return None

    def _begin(self, command: str) -> int:
        """Starts it in a fresh folder, and waits until it holds that."""
        shutil.rmtree(self.out, ignore_errors=True)
        process = self.commands.start(self._arguments(command), self.scratch / "first")
        until = time.monotonic() + 120
        while not is_held(self.out, command) and time.monotonic() < until:
            time.sleep(0.001)
        return process

    def _arguments(self, command: str) -> list[str]:
        return tiny(command, self.source, self.out)

    def _said(self, which: str) -> str:
        return (self.scratch / which).read_text()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of pairs and moments")
    parser.add_argument("--first", nargs="+", default=FIRST, choices=FIRST, help="commands")
    arguments = parser.parse_args()
    from _common import publish
    from rich.table import Table

    rng = np.random.default_rng(arguments.seed)
    commands = Commands()
    counts: Counter[str] = Counter()
    seconds_of: Counter[str] = Counter()
    problems: list[str] = []
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        source, scratch = Path(folder) / "source", Path(folder) / "scratch"
        source.mkdir()
        scratch.mkdir()
        prepare(source, commands)
        collision = Collision(commands, source, scratch)
        while counts.total() < arguments.pairs:
            first = str(rng.choice(arguments.first))
            others = [name for name in FIRST if name != "eval"]
            second = "eval" if first == "eval" else str(rng.choice(others))
            found = collision.pair(first, second, rng.uniform(0, 0.9))
            if found == "not held":
                # it had ended before it could be stopped: no collision
                missed += 1
                continue
            counts[first] += 1
            seconds_of[second] += 1
            if found is not None:
                problems.append(found)
                print(found, flush=True)
    commands.close()
    table = Table(title=f"{arguments.pairs} pairs of commands on one folder")
    for column in ("command", "was first", "came second"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name in FIRST:
        table.add_row(name, str(counts[name]), str(seconds_of[name]))
    details: dict[str, Any] = {"pairs": arguments.pairs, "missed": missed, "problems": problems}
    publish(
        "collisions",
        ours=len(problems),
        theirs=None,
        ratio=None,
        unit="pairs in which the second was not refused, or the first not whole",
        table=table,
        first=dict(counts),
        second=dict(seconds_of),
        **details,
    )
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
