"""What a file may unpack to, and what lies at a path that may not be opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vla.common.errors import UserError
from vla.common.foreign.plain_files import why_not_plain
from vla.common.foreign.sizes import FREE_BYTES, LIMIT_VARIABLE, most_unpacked, shown, why_too_large
from vla.common.foreign.texts import MOST_CHARACTERS, why_no_instruction


def test_the_limit_grows_with_the_file_and_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    assert most_unpacked(1000) == FREE_BYTES
    assert most_unpacked(FREE_BYTES) == 50 * FREE_BYTES
    assert why_too_large(FREE_BYTES, 10) == ""
    problem = why_too_large(3 * 2**30 + 1, 2**20)
    assert problem.endswith("`export VLA_UNPACK_GIB=4`")
    monkeypatch.setenv(LIMIT_VARIABLE, "4")
    assert why_too_large(3 * 2**30 + 1, 2**20) == ""


@pytest.mark.parametrize("value", ["much", "-1", "0", "nan", "1e300"])
def test_a_limit_that_is_no_number_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, value)
    with pytest.raises(UserError, match=f"VLA_UNPACK_GIB: '{value}' is no number of GiB"):
        most_unpacked(1)


def test_what_no_machine_holds_is_damage() -> None:
    assert why_too_large(10**30, 10).endswith("copy it from its source")
    assert shown(10**30) == "more than 1024 TiB"
    assert shown(3 * 2**20) == "3 MiB"


def test_pipes_and_devices_are_no_plain_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "file").touch()
    assert "a pipe" in why_not_plain(tmp_path / "pipe")
    assert "a device" in why_not_plain(tmp_path / "null")
    for name in ("file", ".", "nothing"):
        assert why_not_plain(tmp_path / name) == ""


def test_instructions_that_nobody_could_have_written() -> None:
    assert why_no_instruction("open the drawer") == ""
    assert "half a character" in why_no_instruction("\ud800")
    assert str(MOST_CHARACTERS) in why_no_instruction("a" * (MOST_CHARACTERS + 1))
