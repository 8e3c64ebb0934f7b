"""Where numbers go: metrics.jsonl, trackers, and the means and timings that are logged."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from accelerate import Accelerator

from vla.common.atomic import atomic_path
from vla.common.errors import Notice
from vla.common.foreign.json_files import parse_json
from vla.common.foreign.plain_files import check_plain_file
from vla.config import ConfigError


class MetricsLog:
    """metrics.jsonl, one line of JSON per step that has something to log, and the trackers.

    A line outlives the process at once, and the machine from the next `sync` on. Opening the file
    at `step` cuts off what a killed run logged beyond its last checkpoint, so that each step is in
    it once.

    Args:
        path: the file; None on all processes but one, which write nothing.
        accelerator: has the trackers.
        step: the run goes on behind it.
        counter: the number of a line that `step` is compared with.
    """

    def __init__(
        self,
        path: Path | None,
        accelerator: Accelerator,
        step: int,
        *,
        counter: str = "step",
    ) -> None:
        self._accelerator = accelerator
        self._file: IO[str] | None = None
        self._path = path
        if path is None:
            return
        if path.exists():
            # a killed run has logged steps that its last checkpoint does not have: they come again
            lines = read_metrics(path, counter)
            kept = [json.dumps(line) for line in lines if line[counter] <= step]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(text + "\n" for text in kept))
        self._file = open(path, "a")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the line of a step."""
        if self._file is None or self._path is None:
            return
        if not self._is_there():
            self._file.close()
            warnings.warn(
                f"{self._path}: was deleted or replaced while the training wrote to it: the lines "
                f"before step {step} are lost; it goes on in a new file",
                Notice,
                stacklevel=2,
            )
            self._file = open(self._path, "a")  # noqa: SIM115 - closed by __exit__
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()  # to the system: a killed process loses no line, a dead machine may
        self._accelerator.log(dict(values), step=step)

    def _is_there(self) -> bool:
        """Whether the name still stands for the file that is written to."""
        assert self._file is not None
        assert self._path is not None
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return False

    def sync(self) -> None:
        """Makes all lines durable, before a checkpoint relies on them."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        self._file.close()
        for tracker in self._accelerator.trackers:
            tracker.finish()


def read_metrics(path: Path, counter: str = "step") -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out.

    So are lines that are damaged, of which a warning tells: one must not cost those behind it.

    Raises OSError if there is no file, or something else than a file.
    """
    check_plain_file(path)
    lines, damaged = [], []
    *texts, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(texts, 1):
        try:
            line = parse_json(text, path)
            # rounds are logged as 1.0; NaN and text could not be compared with a step
            if type(line[counter]) not in (int, float) or line[counter] != int(line[counter]):
                raise TypeError
        except (ValueError, KeyError, TypeError, IndexError, OverflowError):
            damaged.append(number)
        else:
            lines.append(line)
    if damaged:
        warnings.warn(
            f"{path}: line {damaged[0]} cannot be read, {len(damaged)} in all; they are left out",
            Notice,
            stacklevel=2,
        )
    return lines


class Mean:
    """Means of named numbers since the last `take`.

    Part of a checkpoint: a resumed run logs the same means as one that was never interrupted. A
    number that some steps lack counts as 0 in them.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.count: int = state["count"] if state else 0

    def add(self, values: Mapping[str, float]) -> None:
        """Adds the numbers of a step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means, which begin again with the next step."""
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums = {}
        self.count = 0
        return means

    def state(self) -> dict[str, Any]:
        """What the constructor takes, JSON types."""
        return {"sums": dict(self.sums), "count": self.count}


class Stopwatch:
    """Seconds spent in each phase of a step.

    On CUDA the phases are timed by events on the stream, which are read when the step has
    synchronised anyway: timing neither stalls the device nor charges its work to the phase that
    waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        """A step begins."""
        self._marks = [("", self._now())]

    def lap(self, phase: str) -> None:
        """What has passed since the last mark belongs to `phase`, which may come again."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """`seconds/{phase}` of each phase, and their sum `seconds/step`."""
        if self._cuda:
            torch.cuda.synchronize()
        total: dict[str, float] = {}
        for (_, begin), (phase, end) in pairwise(self._marks):
            name = f"seconds/{phase}"
            total[name] = total.get(name, 0.0) + self._passed(begin, end)
        return {**total, "seconds/step": sum(total.values())}

    def _passed(self, begin: Any, end: Any) -> float:
        # events count in milliseconds
        seconds: float = begin.elapsed_time(end) / 1000 if self._cuda else end - begin
        return seconds

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def check_trackers(trackers: list[str]) -> None:
    """Raises ConfigError with the pip command if a tracker's package is not installed."""
    # found, not imported: wandb takes a second
    missing = [name for name in trackers if find_spec(name) is None]
    if missing:
        raise ConfigError(
            [f"trackers: {name!r} is not installed; run: pip install {name}" for name in missing]
        )


def tracker_options(
    out: Path,
    config: dict[str, Any],
    run_id: str,
    step: int,
) -> dict[str, dict[str, Any]]:
    """Arguments with which a resumed run goes on in the same tensorboard and wandb run.

    Args:
        out: the run directory.
        config: the run's, in JSON types.
        run_id: the same after each resume.
        step: the run goes on behind it.
    """
    # the same id: wandb then appends to the run; tensorboard drops what was written behind the step
    wandb = {"id": run_id, "name": out.name, "dir": str(out), "resume": "allow", "config": config}
    return {"tensorboard": {"purge_step": step + 1}, "wandb": wandb}


__all__ = ["Mean", "MetricsLog", "Stopwatch", "check_trackers", "tracker_options"]
