"""How far a long call is: the callback that functions take, and what commands show of it.

On a terminal that is a bar. Elsewhere, in a log file or a job of a cluster, it is a plain line a
second after the start and then one every half minute.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol, Self

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vla.common.printing.visible_console import VisibleConsole as Console

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total); total does not change within a call."""
FIRST_SECONDS = 1.0
"""When the first line is written; what is over by then needs none."""
EVERY_SECONDS = 30.0
"""From one line to the next."""

_ambient: ContextVar[ProgressCallback | None] = ContextVar("ambient_progress", default=None)


class MovesProgress(Protocol):
    """A `ProgressCallback` that can also change the words beside the numbers."""

    def __call__(
        self, done: int, total: int, *, label: str | None = None, note: str | None = None
    ) -> None:
        """label: what stands before the numbers from now on; note: what stands behind them."""


class Ticker:
    """Calls `say` a second after the start and then every half minute, in a thread of its own.

    Of several that run inside each other only the innermost speaks.
    """

    _running: list[Ticker] = []  # noqa: RUF012  # of the process, outermost first

    def __init__(self, say: Callable[[], None]) -> None:
        self._say = say
        self._ended = threading.Event()
        self._due = 0.0
        # a daemon: a call that hangs can still be interrupted
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._running.append(self)
        self._due = time.monotonic() + FIRST_SECONDS
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        self._running.remove(self)

    def postpone(self) -> None:
        """Something was said by other means: the next line comes half a minute from now."""
        self._due = time.monotonic() + EVERY_SECONDS

    def _run(self) -> None:
        while not self._ended.wait(max(0.0, self._due - time.monotonic())):
            # it may have been postponed while it waited
            if time.monotonic() < self._due:
                continue
            self.postpone()
            if self._running[-1] is self:
                self._say()


class ProgressLines:
    """Writes plain lines: a `MovesProgress` where no bar can be drawn."""

    def __init__(self, label: str, console: Console, note: str | None) -> None:
        self._label = label
        self._console = console
        self._note = note or ""
        self._done, self._total = 0, 0
        self._began = time.monotonic()

    def __call__(
        self, done: int, total: int, *, label: str | None = None, note: str | None = None
    ) -> None:
        self._done, self._total = done, total
        if label is not None:
            self._label = label
        if note is not None:
            self._note = note

    def write(self) -> None:
        """One line with what is known by now."""
        elapsed = time.monotonic() - self._began
        parts = [self._label]
        if self._total:
            parts += [f"{self._done}/{self._total}", self._note]
        parts.append(clock(elapsed))
        if 0 < self._done < self._total:
            parts.append(f"{clock(elapsed / self._done * (self._total - self._done))} left")
        text = "  ".join(part for part in parts if part)
        # no markup: a policy's name or an instruction may hold brackets
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


class ProgressBar:
    """Moves a bar: a `MovesProgress` on a terminal."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def __call__(
        self, done: int, total: int, *, label: str | None = None, note: str | None = None
    ) -> None:
        # what is left out stays as it is; a field that is None would be drawn as "None"
        fields: dict[str, Any] = {} if note is None else {"note": note}
        self._bar.update(self._task, completed=done, total=total, description=label, **fields)


def count_columns() -> tuple[ProgressColumn, ...]:
    """What every bar begins with: its label, the bar, and how many are done of how many."""
    # made for each bar: a column remembers what it drew, by a task's number alone
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()


@contextlib.contextmanager
def progress_bar(
    label: str,
    *,
    console: Console | None = None,
    show: bool = True,
    transient: bool = False,
    note: str | None = None,
) -> Iterator[MovesProgress]:
    """Shows the count, the time so far and the time left; gives what moves them.

    A bar on a terminal and in a notebook, plain lines elsewhere.

    Args:
        label: what stands before the bar.
        console: where it is drawn; standard output by default.
        show: False draws nothing.
        transient: whether the bar disappears at the end; of lines, that none is written there.
        note: what stands behind the count at first; None leaves no room for notes.
    """
    console = console or Console()
    if show and not (console.is_terminal or console.is_jupyter):
        lines = ProgressLines(label, console, note)
        with Ticker(lines.write):
            yield lines
        if not transient:
            lines.write()
        return
    notes = () if note is None else (TextColumn("{task.fields[note]}"),)
    columns = (
        *count_columns(),
        *notes,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = console or Console()
    with Progress(*columns, console=console, transient=transient, disable=not show) as bar:
        yield ProgressBar(bar, bar.add_task(label, total=None, note=note))


@contextlib.contextmanager
def ambient(progress: ProgressCallback) -> Iterator[None]:
    """Within it, long calls far below that were given no `progress` report to this one."""
    before = _ambient.set(progress)
    try:
        yield
    finally:
        _ambient.reset(before)


def ambient_progress() -> ProgressCallback | None:
    """What `ambient` has set; None outside of it."""
    return _ambient.get()


@contextlib.contextmanager
def stages(text: str, console: Console) -> Iterator[Callable[[str], None]]:
    """Shows what a call is at, without numbers; gives what changes the text.

    A spinner on a terminal and in a notebook, plain lines elsewhere.
    """
    if console.is_terminal or console.is_jupyter:
        with console.status(escape(text)) as status:
            yield lambda now: status.update(escape(now))
        return
    lines = ProgressLines(text, console, None)
    with Ticker(lines.write):
        yield lambda now: lines(0, 0, label=now)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`; `?` for infinity."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
