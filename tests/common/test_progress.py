"""The bar that long commands show on a terminal, and the lines that they write elsewhere."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from vla.common import progress
from vla.common.progress import (
    ProgressCallback,
    Ticker,
    ambient,
    ambient_progress,
    progress_bar,
    stages,
)


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines as after a second and after half minutes, in less time."""
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.05)


def _file() -> Console:
    return Console(file=io.StringIO(), width=80)


def _wait_for(console: Console, text: str) -> list[str]:
    """The lines, once `text` is among them."""
    until = time.monotonic() + 20
    while text not in _drawn(console) and time.monotonic() < until:
        time.sleep(0.005)
    assert text in _drawn(console)
    return _drawn(console).splitlines()


def test_lines_without_a_terminal(quick: None) -> None:
    console = _file()
    with progress_bar("reading [a]", console=console, note="") as bar:
        first = _wait_for(console, "reading")
        bar(3, 7, note="5 frames/s")
        lines = _wait_for(console, "3/7")
    assert first[0] == "reading [a]  0:00", "before anything is known"
    assert lines[-1].startswith("reading [a]  3/7  5 frames/s  0:0")
    assert lines[-1].endswith(" left")
    assert "3/7" in _drawn(console).splitlines()[-1], "how it ended"


def test_lines_go_on_while_nothing_moves(quick: None) -> None:
    console = _file()
    with progress_bar("reading", console=console, transient=True):
        until = time.monotonic() + 20
        while _drawn(console).count("\n") < 3 and time.monotonic() < until:
            time.sleep(0.005)
    assert _drawn(console).count("reading  0:00\n") >= 3


def test_what_is_over_at_once_writes_no_line() -> None:
    console = _file()
    with progress_bar("reading", console=console, transient=True) as bar:
        bar(7, 7)
    assert _drawn(console) == ""


def test_no_line_is_wrapped(quick: None) -> None:
    console = _file()
    name = "a policy of a long name " * 10
    with progress_bar(name, console=console):
        _wait_for(console, name.strip())


def test_the_innermost_alone_writes(quick: None) -> None:
    outer, inner = _file(), _file()
    with progress_bar("outer", console=outer, transient=True):
        with progress_bar("inner", console=inner, transient=True):
            _wait_for(inner, "inner")
            before = _drawn(outer)
            _wait_for(inner, "inner  0:00\ninner  0:00\ninner")
            assert _drawn(outer) == before
        _wait_for(outer, before + "outer")


def test_said_by_other_means(quick: None) -> None:
    said: list[float] = []
    with Ticker(lambda: said.append(time.monotonic())) as ticker:
        for _ in range(20):
            ticker.postpone()
            time.sleep(0.005)
    assert not said


def test_stages_are_lines(quick: None) -> None:
    console = _file()
    with stages("opening", console) as show:
        _wait_for(console, "opening  0:00")
        show("fitting [2]")
        _wait_for(console, "fitting [2]  0:00")


def test_calls_far_below_report_to_the_ambient_progress() -> None:
    seen: list[tuple[int, int]] = []
    assert ambient_progress() is None
    with ambient(lambda done, total: seen.append((done, total))):
        found = ambient_progress()
        assert found is not None
        found(1, 2)
    assert ambient_progress() is None
    assert seen == [(1, 2)]
