"""Errors of the disk name what was written, whoever raised them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vla.common import atomic
from vla.common.folder_lock import alone
from vla.common.machine_faults import naming


class RustError(Exception):
    """As safetensors and tokenizers have them."""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_a_failed_sync_names_the_file(tmp_path, monkeypatch, number):
    def failing(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", failing)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        atomic.write_json(tmp_path / "a.json", {})
    assert caught.value.filename is not None
    assert Path(caught.value.filename).parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_an_error_of_a_library_becomes_one_of_the_system(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, naming(tmp_path):
        raise RustError("I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))


def test_what_is_no_fault_of_the_disk_is_left_alone(tmp_path):
    with pytest.raises(BrokenPipeError) as caught, alone(tmp_path):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert caught.value.filename is None
    with pytest.raises(RustError), alone(tmp_path):
        raise RustError("missing field `a`")


def test_the_file_that_an_error_names_stays(tmp_path):
    with pytest.raises(OSError, match="output error") as caught, alone(tmp_path):
        raise OSError(errno.EIO, "Input/output error", "b/c")
    assert caught.value.filename == "b/c"
