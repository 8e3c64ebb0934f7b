"""Tables that break no word, on narrow terminals and in files."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from vla.common.terminal.consoles import output_console
from vla.common.terminal.tables import Column, Table, share_room, whole

NAME = "rt1-iql-of-a-long-name"
SENTENCE = "some of the episodes have no instruction"


def _table(**options: object) -> Table:
    table = Table(*whole("policy", "95 % interval"), "finding", **options)
    table.add_row(NAME, "0.33 to 0.70", SENTENCE)
    table.add_row("bc [bold]", "0.10 to 0.20", "")
    return table


def _printed(table: Table, width: int, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, **options)  # type: ignore[arg-type]
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _words(text: str) -> list[str]:
    return text.replace("─", " ").split()


@pytest.mark.parametrize("width", range(30, 110, 5))
def test_no_width_breaks_a_word(width: int) -> None:
    text = _printed(_table(title="how it went", caption=SENTENCE), width)
    assert max(map(len, text.splitlines())) <= width
    assert {NAME, "[bold]", *SENTENCE.split(), "interval"} <= set(_words(text))
    assert "0.33 to 0.70" in text, "a cell that stays whole"


def test_breaks_between_words_before_anything_else() -> None:
    text = _printed(_table(), 62)
    assert "policy" in text.splitlines()[1], "a table with heads"
    assert "some of the episodes" in text
    assert SENTENCE not in text


def test_rows_below_each_other_where_words_do_not_fit() -> None:
    first, second = _printed(_table(), 38).strip().split("\n\n")
    assert first.splitlines()[0].strip() == NAME
    assert first.splitlines()[1].split() == ["95", "%", "interval", "0.33", "to", "0.70"]
    assert second.splitlines()[0].strip() == "bc [bold]"
    assert "finding" not in second, "there is none"


def test_a_table_without_heads_below_each_other() -> None:
    table = Table(*whole(""), "", show_header=False)
    table.add_row("root", "/a/long/path/that/does/not/fit")
    assert [line.strip() for line in _printed(table, 30).splitlines()] == [
        "root",
        "/a/long/path/that/does/not/fi",
        "t",
    ]


def test_one_line_where_lines_are_not_wrapped() -> None:
    title = "a title that is longer than the narrow console"
    text = _printed(_table(title=title), 20, soft_wrap=True)
    assert title in text
    assert f"{NAME}  0.33 to 0.70   {SENTENCE}" in text


def test_a_file_has_no_width() -> None:
    console = output_console()
    console.file = io.StringIO()
    console.soft_wrap = output_console().soft_wrap
    assert console.soft_wrap is not console.is_terminal
    console.print(_table())
    assert SENTENCE in console.file.getvalue()


def test_printing_leaves_the_table_as_it_was() -> None:
    table = _table(title="how it went")
    narrow = _printed(table, 60)
    wide = _printed(table, 120)
    assert _printed(table, 60) == narrow
    assert _printed(table, 120) == wide != narrow


def test_styles_are_given_as_texts() -> None:
    table = Table("")
    table.add_row(Text("error", style="red"))
    assert "\x1b[31merror" in _printed(table, 40, force_terminal=True, color_system="standard")


def test_control_characters_are_shown_and_measured() -> None:
    table = Table(*whole("", "next"))
    table.add_row("a\x1b[2Jb", "1")
    table.add_row("abcdefghi", "2")
    *_, first, second = _printed(table, 40).splitlines()
    assert first.startswith("a\\x1b[2Jb  1")
    assert second.index("2") == first.index("  1") + 2


def test_room_is_shared() -> None:
    assert share_room([4, 4, 4], [5, 40, 60], 42) == [5, 18, 19]
    assert share_room([4, 4], [5, 40], 100) == [5, 40]
    assert share_room([4, 4], [5, 40], 8) == [4, 4]


def test_lines_of_a_pipe_end_with_their_last_word(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", Column("n", justify="right"), "words")
    table.add_row("a", "1", SENTENCE * 5)
    table.add_row("longer", "20", "short")
    output_console().print(table)
    lines = capsys.readouterr().out.splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert lines[-2:] == [f"a        1  {SENTENCE * 5}", "longer  20  short"]
    assert max(len(line) for line in lines if set(line) == {"─"}) == 80
