"""A small robot, and episodes whose content follows from their number."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vla.data import DatasetWriter, Episode, EpisodeDataset
from vla.types import Spec

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that the tests share

SPEC = Spec(
    cameras={"front": (6, 8), "wrist": (4, 4)},
    state_names=("x", "y", "gripper"),
    action_names=("dx", "grip"),
    action_low=(-1.0, -2.0),
    action_high=(1.0, 2.0),
    control_hz=10.0,
)
TASKS = ("open the drawer", "push the button")


def make_episode(number: int, steps: int | None = None) -> Episode:
    rng = np.random.default_rng([7, number])
    L = int(rng.integers(1, 9)) if steps is None else steps
    return Episode(
        images={
            c: rng.integers(0, 256, (L, *size, 3), dtype=np.uint8)
            for c, size in SPEC.cameras.items()
        },
        state=rng.normal(size=(L, 3)).astype(np.float32),
        actions=rng.uniform([-1, -2], [1, 2], (L, 2)).astype(np.float32),
        rewards=rng.normal(size=L).astype(np.float32),
        success=np.arange(L) >= L - 1 if number % 2 else np.zeros(L, bool),
        terminated=bool(number % 2),
        instruction=TASKS[number % 2],
        info={"seed": number, "noise": 0.5, "expert": True, "task": "drawer-open"},
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real files; VLA_TEST_DATA names another place."""
    folder = Path(
        os.environ.get("VLA_TEST_DATA") or Path(__file__).parents[2].parent / "shared/data"
    )
    if not folder.is_dir():
        pytest.skip(f"no real files at {folder}: set VLA_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def spec() -> Spec:
    return SPEC


@pytest.fixture(scope="session")
def episode() -> Callable[..., Episode]:
    """episode(number, steps=None) -> Episode."""
    return make_episode


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(lengths) -> folder of a dataset with one episode per length."""

    def make(lengths: list[int | None], name: str = "dataset") -> Path:
        with DatasetWriter(tmp_path / name, SPEC, metadata={"renderer": "egl"}) as writer:
            for number, length in enumerate(lengths):
                writer.add_episode(make_episode(number, length))
        return tmp_path / name

    return make


@pytest.fixture
def assert_holds() -> Callable[[EpisodeDataset, int, Episode], None]:
    """Asserts that the dataset's episode equals the given one, bit by bit."""

    def check(dataset: EpisodeDataset, index: int, expected: Episode) -> None:
        found = dataset.episode(index)
        for name in ("state", "actions", "rewards", "success"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        for camera in expected.images:
            np.testing.assert_array_equal(found.frames(camera), expected.frames(camera))
        assert (found.terminated, found.instruction) == (expected.terminated, expected.instruction)
        assert found.info == expected.info

    return check
