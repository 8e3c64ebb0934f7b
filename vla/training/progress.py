"""What a person sees of a run: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_SHOWN = ("loss", "token_accuracy", "lr", "frames_per_s")


class ProgressDisplay:
    """Shows steps done, the last metrics and the time left.

    Args:
        first: steps that were done before this call (a resumed run).
        steps: steps of the whole run.
        max_minutes: limit of this call, or None.
        enabled: False on all processes but one.
    """

    def __init__(self, first: int, steps: int, max_minutes: float | None, *, enabled: bool) -> None:
        self._first, self._steps, self._enabled = first, steps, enabled
        self._limit = max_minutes * 60 if max_minutes else None
        self._began = time.monotonic()
        self._step = first
        self._console = Console()
        self._bar: Progress | None = None
        if enabled and (self._console.is_terminal or self._console.is_jupyter):
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[metrics]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]} left"),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=steps, completed=first, metrics="", left="?")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since this call began."""
        return time.monotonic() - self._began

    @property
    def out_of_time(self) -> bool:
        return self._limit is not None and self.elapsed >= self._limit

    @property
    def eta(self) -> float:
        """Seconds left, from the mean pace of this call (with its validations and checkpoints)."""
        done = self._step - self._first
        left = self.elapsed / done * (self._steps - self._step) if done else float("inf")
        return left if self._limit is None else min(left, max(self._limit - self.elapsed, 0.0))

    def advance(self, step: int) -> None:
        self._step = step
        if self._bar:
            self._bar.update(self._task, completed=step, left=_clock(self.eta))

    def show(self, values: Mapping[str, float]) -> None:
        """Shows the metrics of the present step."""
        shown = [
            name
            for name in values
            if name in _SHOWN or name.startswith(("loss/", "validation/", "evaluation/"))
        ]
        parts = [f"{name} {values[name]:.4g}" for name in shown if name.count("/") < 2]
        if self._bar:
            self._bar.update(self._task, metrics="  ".join(parts))
        elif self._enabled:
            self._console.print(
                f"step {self._step}/{self._steps}  "
                + "  ".join(parts)
                + f"  {_clock(self.eta)} left",
                soft_wrap=True,
                highlight=False,
            )

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._enabled:
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
