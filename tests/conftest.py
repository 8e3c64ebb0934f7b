"""What every test starts from."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _denormals_are_kept() -> None:
    """Training flushes denormal numbers to zero for the whole process; tests of rounding need them."""
    import torch

    torch.set_flush_denormal(False)
