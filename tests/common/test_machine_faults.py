"""Errors of the machine are one line with a remedy; bugs keep their traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import torch
import typer

from vla.cli.shared import clear_errors
from vla.common.machine_faults import machine_fault, refusal


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), "a/b: no space left"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "lower `workers`"),
        (OSError(errno.EACCES, "Permission denied", "a/b"), "a/b: permission denied"),
        (MemoryError(), "data.cache: disk"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "grad_accumulation",
        ),
    ],
)
def test_one_line_with_a_remedy(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, clear_errors():
        raise error
    assert ended.value.exit_code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert said in text
    assert text.count("\n") == 1


def test_memory_that_the_cpu_has_not() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62 // 8, dtype=torch.float64)
    assert "lower `batch_size`" in str(machine_fault(caught.value))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("a bug"), ValueError("a bug")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="a bug"), clear_errors():
        raise error


@pytest.mark.parametrize(
    "words",
    [
        "Error: engine error: Could not allocate memory",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "std::bad_alloc",
    ],
)
def test_libraries_have_words_of_their_own_for_memory(words: str) -> None:
    assert "not enough memory" in str(machine_fault(ValueError(words)))


def test_a_thread_without_memory_ends_the_command() -> None:
    code = """
import resource, threading
from vla.common.machine_faults import end_where_threads_get_no_memory
end_where_threads_get_no_memory()

def no_memory(self):
    raise MemoryError
# what Python does where the new thread cannot even get its first frame
threading.Thread._bootstrap = no_memory
threading.Thread(target=print).start()
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 2
    assert found.stderr.startswith("error: not enough memory")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EEXIST, "choose another name"),
        (errno.ENOTDIR, "a part of the path is a file"),
        (errno.EACCES, "ls -ld"),
        (errno.ENOENT, "see that its folder exists"),
        (errno.ELOOP, "leads back to itself"),
    ],
)
def test_what_the_system_refuses_comes_with_what_helps(number, remedy):
    text = refusal(OSError(number, os.strerror(number), "a/b"))
    assert text.startswith("a/b: ")
    assert remedy in text
