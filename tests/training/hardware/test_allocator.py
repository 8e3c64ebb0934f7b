"""Freed memory is kept: blocks that are allocated again and again cost no page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from vla.training.hardware.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [torch.ones(2**22) for _ in range(4)]  # 16 MiB each
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
if keep_freed_memory():
    faults()
    print(faults())
"""


def test_what_is_freed_is_used_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    default, *kept = map(int, done.stdout.split())
    if not kept:
        pytest.skip("this C library is not glibc")
    assert kept[0] < 100
    if default < 100:
        pytest.skip("this system gives nothing back by itself")
    assert default > 10 * kept[0]
