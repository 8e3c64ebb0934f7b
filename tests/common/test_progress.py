"""The bar that long commands show."""

from __future__ import annotations

import io

from rich.console import Console

from vla.common.progress import ProgressCallback, progress_bar


def _console() -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=True)


def _drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_bar_counts() -> None:
    console = _console()
    with progress_bar("reading", console=console) as bar:
        moved: ProgressCallback = bar
        moved(3, 7)
    assert "reading" in _drawn(console)
    assert "3/7" in _drawn(console)


def test_words_beside_the_bar_change() -> None:
    console = _console()
    with progress_bar("collecting", console=console, note="") as bar:
        bar(1, 2, label="task red", note="31 frames/s")
        bar(2, 2)
    last = _drawn(console).rsplit("2/2", 1)
    assert "task red" in last[0].rsplit("\n", 1)[-1]
    assert "31 frames/s" in last[1]


def test_nothing_is_drawn_if_nobody_wants_to_see_it() -> None:
    console = _console()
    with progress_bar("reading", console=console, show=False, note="0 solved") as bar:
        bar(1, 2, note="1 solved")
    assert _drawn(console).strip() == ""
