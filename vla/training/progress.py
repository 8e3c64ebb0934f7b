"""What a person sees of a run: a bar with the time left on a terminal, plain lines elsewhere.

The lines are those of the log, and one every half minute where the log is silent for longer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from vla.common.printing.consoles import output_console
from vla.common.progress import Ticker, ambient, clock, count_columns, progress_bar

_SHOWN = ("loss", "token_accuracy", "lr", "frames_per_s")
_SHOWN_PREFIXES = ("loss/", "validation/", "evaluation/")


class ProgressDisplay:
    """Shows the preparation, then steps done, the last metrics and the time left.

    Args:
        steps: steps of the whole run.
        max_minutes: limit of this call, or None.
        enabled: False on all processes but one.
    """

    def __init__(self, steps: int, max_minutes: float | None, *, enabled: bool) -> None:
        self._first = 0
        self._steps = steps
        self._enabled = enabled
        self._limit = max_minutes * 60 if max_minutes else None
        self._began = time.monotonic()
        self._step = 0
        self._console = output_console()
        self._shown = contextlib.ExitStack()
        self._ticker = Ticker(self._write_step)
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
            self._task = self._bar.add_task("training", total=steps, metrics="", left="?")

    def __enter__(self) -> Self:
        if self._enabled:
            # reading a dataset and decoding its pictures may take longer than training
            label = "preparing the run"
            console = output_console(stderr=True)
            bar = progress_bar(label, console=console, transient=True)
            self._shown.enter_context(ambient(self._shown.enter_context(bar)))
        return self

    def begin(self, first: int) -> None:
        """All is ready, and training begins after step `first`, which earlier calls have done."""
        self._shown.close()
        self._first = self._step = first
        # the limit is one of training: what came before does not count
        self._began = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=first)
            self._shown.enter_context(self._bar)
        elif self._enabled:
            self._shown.enter_context(self._ticker)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shown.close()

    @property
    def elapsed(self) -> float:
        """Seconds since training began."""
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
            self._write_step(*parts)
            self._ticker.postpone()

    def _write_step(self, *parts: str) -> None:
        columns = [f"step {self._step}/{self._steps}", *parts, f"{clock(self.eta)} left"]
        self._console.print("  ".join(columns), soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._enabled:
            # no markup: a path or an instruction may hold brackets
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)
            self._ticker.postpone()


__all__ = ["ProgressDisplay"]
