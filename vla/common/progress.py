"""How far a long call is: the callback that functions take, and the bar that commands show."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total); total does not change within a call."""


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
) -> Iterator[ProgressCallback]:
    """Shows one bar with the count, the time so far and the time left.

    Gives the callback that moves it.

    Args:
        label: what stands before the bar.
        console: where it is drawn; standard output by default.
        show: False draws nothing.
        transient: whether the bar disappears at the end.
    """
    columns = (*count_columns(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=transient, disable=not show) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`; `?` for infinity."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
