"""What every test starts from."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is loaded: test processes share the cores, and threads that spin while they wait
    # would take them from each other. What tests start inherits it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def _denormals_are_kept() -> None:
    """Training flushes denormal numbers to zero for the whole process; tests of rounding need them."""
    import torch

    torch.set_flush_denormal(False)
