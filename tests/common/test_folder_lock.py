"""One writer for a folder or a file at a time."""

from __future__ import annotations

import errno
import os

import pytest

from vla.common import folder_lock
from vla.common.atomic import atomic_path, replace_folder, write_text
from vla.common.folder_lock import (
    FolderInUseError,
    UnguardedFolderWarning,
    alone,
    alone_on_folder,
    refuse_if_in_use,
)

pytest.importorskip("fcntl")


def test_whoever_comes_second_is_refused(tmp_path):
    with alone(tmp_path):
        for second in (alone(tmp_path), alone(tmp_path / "." / "")):
            with pytest.raises(FolderInUseError, match="another process writes to it"), second:
                pass
        with pytest.raises(FolderInUseError):
            refuse_if_in_use(tmp_path)
    refuse_if_in_use(tmp_path)
    refuse_if_in_use(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_two_kinds_of_commands_write_side_by_side(tmp_path):
    with (
        alone(tmp_path),
        alone(tmp_path, file=".a.lock"),
        alone(tmp_path, file=".b.lock"),
        pytest.raises(FolderInUseError),
        alone(tmp_path, file=".a.lock"),
    ):
        pass


def write_into(folder):
    folder.mkdir()
    folder.write_text("")


@pytest.mark.parametrize("file", [None, ".lock"])
def test_a_folder_that_was_made_for_nothing_goes(tmp_path, file):
    with pytest.raises(KeyError), alone(tmp_path / "a", file=file):
        raise KeyError
    assert not (tmp_path / "a").exists()
    with pytest.raises(IsADirectoryError), alone(tmp_path / "b", file=file):
        write_into(tmp_path / "b/kept")
    assert (tmp_path / "b/kept").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_is_named_as_that(tmp_path, monkeypatch, number):
    def no_locks(handle, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    with pytest.warns(UnguardedFolderWarning, match="its file system has no locks"):
        write_text(tmp_path / "a.txt", "written")
    assert (tmp_path / "a.txt").read_text() == "written"


def test_a_file_is_written_by_one_at_a_time(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("first")
        with pytest.raises(FolderInUseError, match=r"a\.txt: another process"):
            write_text(path, "second")
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_writer_left_hinders_nobody(tmp_path):
    (tmp_path / "a.txt.tmp").write_text("half")
    write_text(tmp_path / "a.txt", "whole")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_replaced_by_one_at_a_time(tmp_path):
    folder = tmp_path / "out"

    def write(temporary):
        (temporary / "a").write_text("first")
        with pytest.raises(FolderInUseError, match=r"out: another process writes to it"):
            replace_folder(folder, lambda other: None)
        # what the first has written so far is still there
        assert (temporary / "a").read_text() == "first"

    replace_folder(folder, write)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    replace_folder(folder, lambda temporary: (temporary / "b").write_text("second"))
    assert [file.name for file in folder.iterdir()] == ["b"]


def test_a_folder_that_went_into_its_place_meanwhile_is_not_written_to(tmp_path, monkeypatch):
    """Between the opening of a temporary folder and the lock the other process may finish."""
    temporary, folder = tmp_path / ".tmp-out", tmp_path / "out"
    lock = folder_lock.fcntl.flock

    def finished_first(handle, kind):
        temporary.rename(folder)
        lock(handle, kind)

    monkeypatch.setattr(folder_lock.fcntl, "flock", finished_first)
    with pytest.raises(FolderInUseError, match="out: another"), alone_on_folder(temporary, folder):
        (folder / "a").write_text("")
    assert list(folder.iterdir()) == []
