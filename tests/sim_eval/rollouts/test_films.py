"""Films are a function of their frames, as results are of their seeds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from vla.sim_eval.rollouts.video import VideoWriter


def frames() -> list[np.ndarray]:
    """A ball that crosses a table, as flat as what a simulator draws: (96, 96, 3) each."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:96, :96]
    table = np.full((96, 96, 3), (190, 180, 165), np.uint8)
    table[20:40, 30:60] = rng.integers(0, 255, (20, 30, 3))
    found = []
    for step in range(61):
        frame = table.copy()
        frame[(xs - 10 - step) ** 2 + (ys - 50 - 10 * np.sin(step / 9)) ** 2 < 40] = (20, 40, 220)
        found.append(frame)
    return found


def test_the_same_frames_make_the_same_file(tmp_path: Path) -> None:
    """x264's code for AVX-512 made two or three kinds of files of these."""
    seen = set()
    for number in range(12):
        film = VideoWriter(tmp_path / f"{number}.mp4", 10.0)
        for frame in frames():
            film.add(frame)
        film.close()
        seen.add(hashlib.sha256((tmp_path / f"{number}.mp4").read_bytes()).hexdigest())
    assert len(seen) == 1
