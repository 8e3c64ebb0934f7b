"""Datasets of a small robot, and the folder of the real ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numbered_episodes import SPEC, make_episode

from vla.data import DatasetWriter, Episode, EpisodeDataset
from vla.types import Spec


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
