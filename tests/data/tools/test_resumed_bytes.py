"""A conversion or merge that was interrupted, and goes on, leaves the very files of one that was
not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla.data import DatasetWriter, Episode, writer
from vla.data.storage.video import VideoConfig
from vla.data.tools import derived
from vla.data.tools.merging import merge
from vla.types import Spec

SPEC = Spec({"front": (32, 32)}, ("x", "y"), ("dx", "dy"), (-4.0,) * 2, (4.0,) * 2, 10.0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def sources(tmp_path) -> list[Path]:
    """Two datasets of three episodes each."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        with DatasetWriter(folder, SPEC) as made:
            for index in range(3):
                made.add_episode(episode_of(3 * number + index))
    return folders


def episode_of(number: int) -> Episode:
    """Its content follows from its number."""
    rng = np.random.default_rng(number)
    steps = 3 + number
    return Episode(
        images={"front": rng.integers(0, 256, (steps, 32, 32, 3), dtype=np.uint8)},
        state=rng.normal(size=(steps, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        success=np.arange(steps) >= steps - 1,
        terminated=True,
        instruction=("open", "close", "push")[number % 3],
    )


@pytest.mark.parametrize("video", [None, VideoConfig()], ids=["png", "video"])
def test_the_bytes_are_those_of_an_undisturbed_merge(sources, tmp_path, monkeypatch, video):
    # small, so that there are several files of each kind, and an interruption falls within one
    monkeypatch.setattr(writer, "OPEN_FILE_BYTES", 2000 if video else 30_000)
    monkeypatch.setattr(writer, "OPEN_VIDEO_BYTES", 4000)
    monkeypatch.setattr(writer, "EPISODES_PER_TABLE", 3)
    monkeypatch.setattr(derived, "EPISODES_PER_COMMIT", 1)
    merge(sources, tmp_path / "whole", video=video)
    expected = files_of(tmp_path / "whole")
    assert "data/chunk-000/file-001.parquet" in expected
    add = DatasetWriter.add_episodes
    for kept in range(6):
        out = tmp_path / f"cut-{kept}"
        done = 0

        def interrupted(self, episodes, kept=kept):
            nonlocal done
            if done == kept:
                raise KeyboardInterrupt
            done += 1
            return add(self, episodes)

        monkeypatch.setattr(DatasetWriter, "add_episodes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            merge(sources, out, video=video)
        monkeypatch.setattr(DatasetWriter, "add_episodes", add)
        assert merge(sources, out, video=video).resumed == kept
        assert files_of(out) == expected, f"after {kept} episodes"
