"""What every test starts from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is loaded: test processes share the cores, and threads that spin while they wait
    # would take them from each other. What tests start inherits it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Mesa's threads cost small pictures a third of their time, and are read when it first draws
    os.environ.setdefault("LP_NUM_THREADS", "0")

MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30  # bytes; a whole run fills less than a quarter of it at any time
LONGEST = (
    "recipes/test_online.py",
    "recipes/test_online_off_policy.py",
    "export/test_episodes.py",
    "docs/test_site.py",
    "sim_eval/rollouts/test_ray.py",
    "training/objectives/test_objectives_contract.py",
    "export/test_package.py",
    "recipes/test_online_resume.py",
    "sim_eval/test_evaluate.py",
    "serving/test_life.py",
    "training/finetuning/test_gradient_surgery.py",
    "training/test_resume.py",
    "sim_eval/robustness/test_robustness.py",
    "common/test_plugins.py",
    "tokenizers/test_contract.py",
)
"""Files that take longest. They begin first, so that all test processes end together."""


def _has_room(folder: Path) -> bool:
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize > ROOM and not found.f_flag & os.ST_NOEXEC


# Runs, datasets and checkpoints are synced to the disk, tens of thousands of times in all, and a
# disk takes milliseconds for it. In memory the same calls are free.
if _has_room(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))  # others keep their order


@pytest.fixture(autouse=True)
def _denormals_are_kept() -> None:
    """Training flushes denormal numbers to zero for the whole process; tests of rounding need them."""
    import torch

    torch.set_flush_denormal(False)
