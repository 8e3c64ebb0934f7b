"""What a person sees of a run: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from vla.common.progress import clock, count_columns
from vla.common.visible_console import VisibleConsole as Console

_SHOWN = ("loss", "token_accuracy", "lr", "frames_per_s")
_SHOWN_PREFIXES = ("loss/", "validation/", "evaluation/")


class ProgressDisplay:
    """Shows steps done, the last metrics and the time left.

    Args:
        first: steps that were done before this call (a resumed run).
        steps: steps of the whole run.
        max_minutes: limit of this call, or None.
        enabled: False on all processes but one.
    """

    def __init__(self, first: int, steps: int, max_minutes: float | None, *, enabled: bool) -> None:
        self._first = first
        self._steps = steps
        self._enabled = enabled
        self._limit = max_minutes * 60 if max_minutes else None
        self._began = time.monotonic()
        self._step = first
        self._console = Console()
        self._bar: Progress | None = None
        # a bar that is redrawn would fill a log file with lines
        if enabled and (self._console.is_terminal or self._console.is_jupyter):
            self._bar = Progress(
                *count_columns(),
                TextColumn("{task.fields[metrics]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]} left"),
                console=self._console,
            )
            self._task = self._bar.add_task(
                "training", total=steps, completed=first, metrics="", left="?"
            )

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
        left = float("inf")
        if done:
            left = self.elapsed / done * (self._steps - self._step)
        if self._limit is None:
            return left
        return min(left, max(self._limit - self.elapsed, 0.0))

    def advance(self, step: int) -> None:
        """Step `step` is done."""
        self._step = step
        if self._bar:
            # rich's own estimate leaves `max_minutes` out, and counts steps of earlier calls
            self._bar.update(self._task, completed=step, left=clock(self.eta))

    def show(self, values: Mapping[str, float]) -> None:
        """Shows the metrics of the present step."""
        parts = []
        for name, value in values.items():
            shown = name in _SHOWN or name.startswith(_SHOWN_PREFIXES)
            # `validation/action_error/x` and its like would fill the line
            if shown and name.count("/") < 2:
                parts.append(f"{name} {value:.4g}")
        if self._bar:
            self._bar.update(self._task, metrics="  ".join(parts))
        elif self._enabled:
            columns = [f"step {self._step}/{self._steps}", *parts, f"{clock(self.eta)} left"]
            self._console.print("  ".join(columns), soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._enabled:
            # no markup: a path or an instruction may hold brackets
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)


__all__ = ["ProgressDisplay"]
