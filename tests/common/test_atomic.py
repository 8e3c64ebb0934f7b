"""Whatever fails while a file or folder is written, the old one stays whole and nothing else is left behind."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from vla.common import atomic
from vla.common.atomic import atomic_path, move_folder, replace_file, replace_folder


def test_a_file_is_replaced_with_or_without_a_sync(tmp_path: Path) -> None:
    for durable in (True, False):
        new, old = tmp_path / "new", tmp_path / "old"
        new.write_text(f"{durable}")
        old.write_text("before")
        replace_file(new, old, durable=durable)
        assert old.read_text() == f"{durable}"
        assert not new.exists()


def test_only_a_durable_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(atomic.os, "fsync", synced.append)
    (tmp_path / "new").write_text("1")
    replace_file(tmp_path / "new", tmp_path / "old", durable=False)
    assert not synced
    (tmp_path / "new").write_text("2")
    replace_file(tmp_path / "new", tmp_path / "old")
    assert len(synced) == 2  # the file, then its folder


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with contextlib.suppress(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_takes_the_place_of_one_with_content(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for folder, name in ((new, "a/deep"), (old, "b")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    move_folder(new, old)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (old / "a" / "deep").read_text() == "a/deep"
    assert not (old / "b").exists()


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / f"{atomic.TEMPORARY_FOLDER}out"
    left.mkdir()
    (left / "half").write_text("")
    replace_folder(tmp_path / "out", lambda folder: (folder / "whole").write_text("") and None)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["whole"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_replaced_is_told_before_the_work(tmp_path: Path) -> None:
    atomic.check_replaceable(tmp_path / "new" / "out")
    (tmp_path / "out").mkdir()
    atomic.check_replaceable(tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match="file"):
            atomic.check_replaceable(path)
    assert (tmp_path / "file").read_text() == "mine"
