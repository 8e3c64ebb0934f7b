"""How far a long call is: the callback that functions take, and the bar that commands show."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

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

from vla.common.visible_console import VisibleConsole as Console

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total); total does not change within a call."""


class ProgressBar:
    """Moves a bar: a `ProgressCallback` that can also change the words beside the bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def __call__(
        self, done: int, total: int, *, label: str | None = None, note: str | None = None
    ) -> None:
        """label: what stands before the bar from now on; note: what stands behind the count."""
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
) -> Iterator[ProgressBar]:
    """Shows one bar with the count, the time so far and the time left; gives what moves it.

    Args:
        label: what stands before the bar.
        console: where it is drawn; standard output by default.
        show: False draws nothing.
        transient: whether the bar disappears at the end.
        note: what stands behind the count at first; None leaves no room for notes.
    """
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


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`; `?` for infinity."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
