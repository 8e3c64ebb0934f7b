"""Our data room against the real lerobot, in both directions. Prints one line per check; exits with 1 on failure.

    python tests/interop/run.py --lerobot-python .venv-interop/bin/python [--dataset DIR]

`--lerobot-python` is an interpreter in whose environment lerobot is installed (0.4.4 on Python 3.11).
`--dataset` adds a dataset that exists, for example one made by `vla collect`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows, atomic, true_statistics
from vla.types import Spec

HISTORY, CHUNK = 3, 2
FILES_PER_EPISODE = 5
LAST_INTERRUPTED = f"dead-after-{FILES_PER_EPISODE - 1}-files"
SPEC = Spec({"front": (32, 48), "wrist": (24, 24)}, ("x", "y", "g"), ("dx", "dy"), (-1, -2), (1, 2), 12.5)
SIDE = Path(__file__).with_name("lerobot_side.py")


def episode(number: int) -> Episode:
    rng = np.random.default_rng(number)
    L = 6 + number
    return Episode(
        images={c: rng.integers(0, 256, (L, *size, 3), dtype=np.uint8) for c, size in SPEC.cameras.items()},
        state=rng.normal(size=(L, 3)).astype(np.float32),
        actions=rng.uniform([-1, -2], [1, 2], (L, 2)).astype(np.float32),
        rewards=rng.normal(size=L).astype(np.float32),
        success=np.arange(L) == L - 1,
        terminated=bool(number % 2),
        instruction=f"task {number % 2}",
        info={"seed": number},
    )


def call_lerobot(python: str, work: Path, *arguments: str) -> None:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work / "hf"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    subprocess.run([python, str(SIDE), *arguments], check=True, env=environment)


def compare(result: Path, root: Path) -> str:
    """Windows and tasks that lerobot read of the dataset, and its statistics, equal ours, value by value."""
    theirs = np.load(result)
    dataset = EpisodeDataset(root)
    windows = Windows(dataset, history=HISTORY, chunk=CHUNK)
    ours = windows.batch(np.arange(len(windows)))
    assert (int(theirs["episodes"]), int(theirs["frames"])) == (dataset.num_episodes, dataset.num_frames)
    assert theirs["tasks"].tolist() == ours.instruction, "tasks differ"
    np.testing.assert_array_equal(theirs["observation.state"], ours.state)
    np.testing.assert_array_equal(theirs["observation.state_is_pad"], ~ours.mask)
    np.testing.assert_array_equal(theirs["action"], ours.actions[:, -1])
    np.testing.assert_array_equal(theirs["action_is_pad"], ~ours.action_mask[:, -1])
    np.testing.assert_array_equal(theirs["frame_index"], ours.timesteps[:, -1])
    np.testing.assert_array_equal(theirs["next.reward"], ours.rewards[:, -1])
    np.testing.assert_array_equal(theirs["next.terminated"], ours.terminals[:, -1])
    for camera, images in ours.images.items():
        pixels = np.moveaxis(theirs[f"observation.images.{camera}"] * 255, -3, -1).round().astype(np.uint8)
        np.testing.assert_array_equal(pixels, images)
        assert theirs[f"stats/observation.images.{camera}/mean"].shape == (3, 1, 1)
    equal = f"{dataset.num_episodes} episodes, {dataset.num_frames} windows of {HISTORY} frames and tasks are equal"
    if root.name == LAST_INTERRUPTED:
        return f"{equal} (the statistics count the lost episode until the next one is added)"
    exact = true_statistics(windows.actions)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(theirs[f"stats/action/{name}"], getattr(exact, name), rtol=1e-5, atol=1e-6)
    return f"{equal}, statistics too"


def written_here(folder: Path) -> Path:
    with DatasetWriter(folder, SPEC, robot_type="test arm") as writer:
        for number in range(4):
            writer.add_episode(episode(number))
    return folder


def interrupted(folder: Path) -> Iterator[Path]:
    """Datasets whose writer died after 0 .. 4 files of an episode (info.json, the last one, never came)."""
    replace = os.replace
    for survived in range(FILES_PER_EPISODE):
        root = folder / f"dead-after-{survived}-files"
        calls: list[str] = []

        def dying(source: str, target: str, calls: list[str] = calls, survived: int = survived) -> None:
            calls.append(target)
            if len(calls) > survived:
                raise OSError("the writer died")
            replace(source, target)

        with DatasetWriter(root, SPEC) as writer:
            writer.add_episode(episode(0))
            try:
                with mock.patch.object(atomic.os, "replace", dying):
                    writer.add_episode(episode(1))
            except OSError:
                yield root


def read_what_lerobot_wrote(python: str, work: Path) -> str:
    root = work / "by-lerobot"
    call_lerobot(python, work, "write", str(root))
    dataset = EpisodeDataset(root)
    assert dataset.num_episodes == 3
    assert dataset.instructions == ["task 0", "task 1"]
    assert dataset.spec.cameras == {"top": (16, 24)}
    assert (dataset.spec.action_names, dataset.spec.state_names) == (("dx", "dy"), ("x", "y"))
    np.testing.assert_allclose(dataset.spec.action_low, [0, -0.5], atol=1e-6)
    for number in range(3):
        found, steps = dataset.episode(number), np.arange(4 + number)
        assert found.instruction == f"task {number % 2}"
        np.testing.assert_array_equal(found.frames("top")[:, 7, 7, 1], 40 * number + steps)
        np.testing.assert_array_equal(found.state[:, 1], steps)
        np.testing.assert_allclose(
            found.actions, np.stack([np.full(len(steps), 0.1 * number), -0.1 * steps], 1), rtol=1e-6
        )
        np.testing.assert_array_equal(found.rewards, steps)
    return f"{dataset.num_episodes} episodes, {dataset.num_frames} frames equal, spec derived"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot-python", required=True)
    parser.add_argument("--dataset", type=Path)
    arguments = parser.parse_args()
    python = arguments.lerobot_python
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        datasets = [written_here(work / "ours"), *interrupted(work)]
        datasets += [arguments.dataset.resolve()] if arguments.dataset is not None else []
        results = work / "results"
        results.mkdir()
        call_lerobot(python, work, "read", str(HISTORY), str(CHUNK), str(results), *map(str, datasets))
        for root in datasets:
            print(f"lerobot reads {root.name}: {compare(results / f'{root.name}.npz', root)}", flush=True)
        print("we read lerobot's:", read_what_lerobot_wrote(python, work), flush=True)
    print("interop: all equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
