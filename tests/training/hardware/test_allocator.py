"""Freed memory is kept: blocks that are allocated again and again cost no page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from vla.training.hardware.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [torch.ones(2**22) for _ in range(4)]  # 16 MiB each
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("cannot")
else:
    faults()
    print(faults())
"""


def test_what_is_freed_is_used_again() -> None:
    found = {}
    for mode in ("default", "keep"):
        command = [sys.executable, "-c", PROGRAM, mode]
        found[mode] = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    if found["keep"] == "cannot":
        pytest.skip("this C library is not glibc")
    assert int(found["keep"]) < 100
    if int(found["default"]) < 100:
        pytest.skip("this system gives nothing back by itself")
    assert int(found["default"]) > 10 * int(found["keep"])
