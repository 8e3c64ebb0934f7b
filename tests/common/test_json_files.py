"""JSON of others: a value, or one line that names the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vla.common.json_files import MAX_DEPTH, JsonError, read_json

BAD = {
    "nested": (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
    "deeper than any file": (b"[" * 200 + b"]" * 200, f"more than {MAX_DEPTH} deep"),
    "latin-1": ('{"a": "ö"}'.encode("latin-1"), "not UTF-8"),
    "cut off": (b'{"a": 1', "not valid JSON"),
    "a key twice": (b'{"steps": 1, "steps": 2}', "'steps' stands in it twice"),
    "a large number": (b"9" * 10_000, "not valid JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused(kind: str, tmp_path: Path) -> None:
    content, message = BAD[kind]
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(JsonError, match=message) as caught:
        read_json(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(JsonError, match="no plain file"):
        read_json(tmp_path / "x.json")


def test_sizes_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('"abcdefgh"')
    assert read_json(tmp_path / "x.json") == "abcdefgh"
    with pytest.raises(JsonError, match="has 10 bytes, expected at most 9"):
        read_json(tmp_path / "x.json", max_bytes=9)
