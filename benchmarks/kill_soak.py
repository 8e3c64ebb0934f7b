"""Kills recording, conversion, the decoding of frames, and whole commands at random moments (SIGKILL), and looks at
what is left.

After every kill all that was finished must be there, bit by bit, and the same call must go on from there. The script ends
with status 1 where something was lost. Each kind of work is killed somewhere between its start and the time that it takes
undisturbed; what has come to its end begins again. Commands (trainings by an objective of each kind, `vla collect`,
`vla data merge`, `vla eval`) are compared with an undisturbed run, file by file, whenever they end.

    python benchmarks/kill_soak.py [--kills 20] [--episodes 12] [--steps 30] [--seed 0] [--kinds NAME ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # a test loads this file by its path
from _commands import Commands, prepare
from _killed_commands import COMMANDS, import_all

SIZE = 48


def spec() -> Any:
    from vla.types import Spec

    return Spec(
        {"front": (SIZE, SIZE), "wrist": (SIZE, SIZE)},
        ("x", "y"),
        ("dx", "dy"),
        (-1.0,) * 2,
        (1.0,) * 2,
        10,
    )


def make_episode(number: int, steps: int) -> Any:
    """Its content follows from its number."""
    from vla.data import Episode

    rng = np.random.default_rng([1, number])
    pictures = (
        rng.integers(0, 256, (2, steps, SIZE // 4, SIZE // 4, 3), dtype=np.uint8)
        .repeat(4, 2)
        .repeat(4, 3)
    )
    return Episode(
        images={"front": pictures[0], "wrist": pictures[1]},
        state=rng.normal(size=(steps, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        success=np.arange(steps) >= steps - 1,
        terminated=True,
        instruction=("open the drawer", "push the button")[number % 2],
    )


def same(found: Any, expected: Any) -> bool:
    """Whether two episodes are equal bit by bit."""
    numbers = all(
        np.array_equal(getattr(found, name), getattr(expected, name))
        for name in ("state", "actions", "rewards", "success")
    )
    pictures = all(
        np.array_equal(found.frames(camera), expected.frames(camera)) for camera in expected.images
    )
    return numbers and pictures and found.instruction == expected.instruction


class Work(ABC):
    """What is killed. `run` is called in the process that dies, the rest in the one that looks.

    Args:
        folder: all of its files, apart from `source`.
        source: a whole dataset of `episodes` episodes.
    """

    name: str
    unit: str

    def __init__(self, folder: Path, source: Path, episodes: int, steps: int) -> None:
        self.folder, self.source, self.episodes, self.steps = folder, source, episodes, steps

    @abstractmethod
    def run(self) -> None:
        """Does all of it, or what is left."""

    @abstractmethod
    def kept(self) -> int:
        """How many units are finished. Raises AssertionError where one is not what it must be."""

    @property
    @abstractmethod
    def total(self) -> int: ...

    def check_whole(self) -> None:
        """Called where the work has ended. Raises AssertionError if something is not as it must be."""
        assert self.kept() == self.total

    def expected(self, number: int) -> Any:
        return make_episode(number, self.steps)


class Recording(Work):
    name, unit = "recording", "episodes"

    def run(self) -> None:
        from vla.data import DatasetWriter

        with (
            DatasetWriter(self.folder / "dataset", spec(), resume=True) as writer,
            open(self.folder / "log", "a") as log,
        ):
            for number in range(writer.num_episodes, self.episodes):
                writer.add_episode(self.expected(number))
                print(number, file=log, flush=True)

    def kept(self) -> int:
        """An episode is finished when `add_episode` has returned; one more may be there, whose return was cut off."""
        log = self.folder / "log"
        written = (
            int(log.read_text().splitlines()[-1]) + 1 if log.exists() and log.read_text() else 0
        )
        there = whole_episodes(self, self.folder / "dataset")
        assert there in (written, written + 1), (
            f"{written} episodes were written, {there} are there"
        )
        return there

    @property
    def total(self) -> int:
        return self.episodes


class Conversion(Work):
    name, unit = "conversion", "episodes"

    def run(self) -> None:
        from vla.data.tools import derived
        from vla.data.tools.conversion import convert

        derived.EPISODES_PER_COMMIT = 2
        convert(self.source, self.folder / "dataset", jobs=2)

    def kept(self) -> int:
        return whole_episodes(self, self.folder / "dataset")

    @property
    def total(self) -> int:
        return self.episodes


class Decoding(Work):
    name, unit = "decoding", "blocks"

    def run(self) -> None:
        from vla.data import EpisodeDataset, FrameCache
        from vla.data.loading import decoding

        decoding._BLOCK_BYTES = 1  # each episode is a block
        FrameCache(EpisodeDataset(self.source), "disk", folder=self.folder / "cache", threads=2)

    def kept(self) -> int:
        """Blocks of finished cameras, and those that the journal of an unfinished one says are finished."""
        from vla.data import EpisodeDataset
        from vla.data.loading.frame_cache import kept_damage

        cache, count = self.folder / "cache", 0
        for journal in cache.glob("*.building/journal.jsonl"):
            count += sum(
                line.endswith(b"]\n") for line in journal.read_bytes().splitlines(keepends=True)
            )
        damage = kept_damage(EpisodeDataset(self.source), cache)
        assert not damage, damage
        finished = [
            folder
            for folder in cache.glob("frames-*")
            if (folder / "key.json").exists() and not folder.suffix
        ]
        for folder in finished:
            key = json.loads((folder / "key.json").read_text())
            frames = np.memmap(folder / "frames.bin", np.uint8, "r", shape=tuple(key["shape"]))
            expected = np.concatenate(
                [self.expected(e).frames(key["camera"]) for e in range(self.episodes)]
            )
            assert np.array_equal(frames, expected), f"{folder} holds other frames"
        return count + len(finished) * self.episodes

    @property
    def total(self) -> int:
        return self.episodes * 2


def whole_episodes(work: Work, root: Path) -> int:
    """The dataset's episodes, each compared with what it must be; 0 where no dataset is there yet."""
    from vla.data import EpisodeDataset

    info = root / "meta" / "info.json"
    if not info.exists() or not json.loads(info.read_text())["total_episodes"]:
        return 0
    dataset = EpisodeDataset(root)
    for number in range(dataset.num_episodes):
        assert same(dataset.episode(number), work.expected(number)), (
            f"{root}: episode {number} is another"
        )
    return dataset.num_episodes


KINDS: dict[str, type[Any]] = {kind.name: kind for kind in (Recording, Conversion, Decoding)}
KINDS |= COMMANDS


class Server:
    """Forks a fresh process for each piece of work, so that the imports are paid once."""

    def __init__(self, *, commands: bool = False) -> None:
        serve = ["--serve", "--commands"] if commands else ["--serve"]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *serve],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, work: Work) -> int:
        """-> the process that works."""
        assert self.process.stdin is not None
        job = {"kind": work.name, "folder": str(work.folder), "source": str(work.source)}
        job |= {"episodes": work.episodes, "steps": work.steps}
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return int(self._line())

    def ended(self) -> int:
        """Waits for the end of the work -> its exit status, negative where a signal ended it."""
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("kill_soak: the working process ended by itself; see above")
        return line

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(*, commands: bool) -> None:
    import vla.data
    import vla.data.tools.conversion  # noqa: F401

    if commands:
        import_all()

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child:
            print(child, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        # what a command says in the middle of its work is not looked at
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        places = Path(job["folder"]), Path(job["source"])
        KINDS[job["kind"]](*places, job["episodes"], job["steps"]).run()
        os._exit(0)


def soak(work: Work, server: Server, kills: int, rng: np.random.Generator) -> dict[str, Any]:
    """Raises AssertionError where something was lost."""
    seconds = undisturbed(work, server)
    found: dict[str, Any] = {
        "work": work.name,
        "kills": 0,
        "seconds": round(seconds, 3),
        "ended": 0,
        "kept": [],
    }
    kept = 0
    while found["kills"] < kills:
        process = server.start(work)
        time.sleep(rng.uniform(0, seconds))
        with contextlib.suppress(ProcessLookupError):  # it has come to its end before
            os.kill(process, signal.SIGKILL)
        status = server.ended()
        assert status in (0, -signal.SIGKILL), f"{work.name}: ended with status {status}"
        there = work.kept()
        assert there >= kept, f"{work.name}: {kept} {work.unit} were finished, {there} are left"
        kept = there
        if status != 0:
            found["kills"] += 1
            found["kept"].append(there)
        if there == work.total and status == 0:
            work.check_whole()
            found["ended"] += 1
            kept = 0
            begin_again(work)
    undisturbed(work, server, begin_first=False)
    found["ended"] += 1
    return found


def undisturbed(work: Work, server: Server, *, begin_first: bool = True) -> float:
    """Runs to the end and checks all of it -> seconds."""
    if begin_first:
        begin_again(work)
    start = time.monotonic()
    server.start(work)
    status = server.ended()
    seconds = time.monotonic() - start
    assert status == 0, f"{work.name}: ended with status {status}"
    assert work.kept() == work.total, (
        f"{work.name}: {work.kept()} of {work.total} {work.unit} are there at the end"
    )
    work.check_whole()
    if begin_first:
        begin_again(work)
    return seconds


def begin_again(work: Work) -> None:
    shutil.rmtree(work.folder, ignore_errors=True)
    work.folder.mkdir()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of each kind of work")
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--steps", type=int, default=30, help="of every episode")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--commands", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.serve:
        serve(commands=arguments.commands)
        return
    from _common import publish
    from rich.table import Table

    kinds = {}
    table = Table(
        title=f"SIGKILL at random moments, {arguments.episodes} episodes of {arguments.steps} steps"
    )
    for column in (
        "work",
        "kills",
        "undisturbed s",
        "runs that ended",
        "finished at the kills",
        "lost",
    ):
        table.add_column(column, justify="left" if column == "work" else "right")
    # the data alone need no imports of simulators
    whole_commands = not COMMANDS.keys().isdisjoint(arguments.kinds)
    server, rng = Server(commands=whole_commands), np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        source = Recording(Path(folder) / "source", Path(), arguments.episodes, arguments.steps)
        source.folder.mkdir()
        source.run()
        prepared = Path(folder) / "prepared"
        prepared.mkdir()
        if whole_commands:
            commands = Commands()
            prepare(prepared, commands)
            commands.close()
        for kind in arguments.kinds:
            place = Path(folder) / re.sub(r"\W+", "-", kind)
            reads = prepared if kind in COMMANDS else source.folder / "dataset"
            work = KINDS[kind](place, reads, arguments.episodes, arguments.steps)
            try:
                found = soak(work, server, arguments.kills, rng)
            except AssertionError as error:
                raise SystemExit(f"kill_soak: {error}") from error
            kinds[kind] = found
            finished = f"{min(found['kept'])} to {max(found['kept'])} of {work.total} {work.unit}"
            table.add_row(
                kind, str(found["kills"]), str(found["seconds"]), str(found["ended"]), finished, "0"
            )
    server.close()
    publish(
        "kill_soak",
        ours=0,
        theirs=None,
        ratio=None,
        unit="kills that lost something",
        table=table,
        kinds=kinds,
    )


if __name__ == "__main__":
    main()
