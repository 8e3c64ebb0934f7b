"""Control characters in texts of others are shown, never sent to a terminal."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from rich.markup import escape
from rich.table import Table
from typer.testing import CliRunner

from vla.cli import app
from vla.cli.shared import clear_errors
from vla.common.printing.visible_console import VisibleConsole, visible

NASTY = "go\x1b[2J\x1b]0;title\x07\x1b[8m\x9b1m\r\u202eleft\ud800[/red]"
SHOWN = r"go\x1b[2J\x1b]0;title\x07\x1b[8m\x9b1m\x0d\u202eleft\ud800[/red]"


def printed(*things: object) -> str:
    file = io.StringIO()
    console = VisibleConsole(file=file, force_terminal=True, width=200, color_system=None)
    for thing in things:
        console.print(thing, soft_wrap=True)
    return file.getvalue()


def test_texts_are_shown_and_line_breaks_stay() -> None:
    assert visible(NASTY) == SHOWN
    assert visible("a\n\tb ö 漢") == "a\n\tb ö 漢"


def test_lines_tables_and_titles() -> None:
    table = Table("task", title=escape(NASTY))
    table.add_row(escape(NASTY))
    found = printed(escape(NASTY), table)
    assert found.count(SHOWN) == 3
    assert "\x1b" not in found
    # as wide as what is shown: the last line of the table is as long as the row
    lines = found.splitlines()
    assert len(lines[-1]) == len(lines[-2])


def test_colours_of_our_own_stay() -> None:
    file = io.StringIO()
    console = VisibleConsole(file=file, force_terminal=True, color_system="standard")
    console.print(f"[red]{escape(NASTY)}[/]", highlight=False)
    assert file.getvalue() == f"\x1b[31m{SHOWN}\x1b[0m\n"


def test_errors_of_commands(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "info", str(tmp_path / "x\x1b[2J\x85y")])
    assert result.exit_code == 2
    assert r"x\x1b[2J\x85y" in result.stderr
    assert "\x1b" not in result.stderr


def test_warnings_of_others() -> None:
    with pytest.warns(ResourceWarning) as found, clear_errors():
        warnings.warn("odd \x1b[2J", ResourceWarning, stacklevel=1)
    assert str(found[0].message) == r"odd \x1b[2J"
