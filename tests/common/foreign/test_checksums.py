"""A folder's checksums: every changed file is named, and old folders have none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vla.common.foreign.checksums import CHECKSUMS_FILE, changed_files, checksums_of_written
from vla.common.foreign.json_files import JsonError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    for name in ("others.bin", "a.json"):
        (tmp_path / name).write_text("of before")
    with checksums_of_written(tmp_path, without=["README.md"]):
        for name in ("a.json", "inner/b.bin", "README.md"):
            (tmp_path / name).write_text(name)
    return tmp_path


def test_only_what_was_written_is_listed(folder: Path) -> None:
    listed = json.loads((folder / CHECKSUMS_FILE).read_text())["sha256"]
    assert listed["a.json"] == hashlib.sha256(b"a.json").hexdigest()
    assert sorted(listed) == ["a.json", "inner/b.bin"]


def test_changed_files_are_named(folder: Path) -> None:
    assert list(changed_files(folder)) == []
    (folder / "README.md").write_text("edited")
    (folder / "inner" / "b.bin").write_text("inner/b.bim")
    assert list(changed_files(folder)) == ["inner/b.bin"]
    (folder / CHECKSUMS_FILE).unlink()
    assert list(changed_files(folder)) == []


def test_names_that_lead_elsewhere_are_not_opened(folder: Path) -> None:
    sums = {"../secret": "0", "/etc/hostname": "0", "a\0b": "0", "gone": "0"}
    (folder / CHECKSUMS_FILE).write_text(json.dumps({"sha256": sums}))
    assert list(changed_files(folder)) == []


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (lambda sums: sums.write_text("[]"), "expected the key sha256"),
        (lambda sums: sums.write_text(""), "not valid JSON.*; copy the folder again"),
        (lambda sums: sums.mkdir(), "is no plain file"),
        (os.mkfifo, "is no plain file"),
        (lambda sums: sums.symlink_to("/nowhere"), "is no plain file"),
    ],
)
def test_damaged_sums(folder: Path, put: Callable[[Path], Any], message: str) -> None:
    (folder / CHECKSUMS_FILE).unlink()
    put(folder / CHECKSUMS_FILE)
    with pytest.raises(JsonError, match=message):
        list(changed_files(folder))
