"""Our data room against the real lerobot, in both directions. Prints one line per check; exits with 1 on failure.

    python tests/interop/run.py --lerobot-python .venv-interop/bin/python [--dataset DIR ...]

`--lerobot-python` is an interpreter in whose environment lerobot is installed (0.4.4 on Python 3.11).
`--dataset` adds datasets that exist, for example one made by `vla collect`.

Images and numbers must be equal, and so must what lerobot and we decode of a video, with each of lerobot's decoders. What
is decoded is near what was recorded: `CODEC_BOUND`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np

from vla.common import atomic
from vla.data import (
    DatasetWriter,
    Episode,
    EpisodeDataset,
    VideoConfig,
    Windows,
    true_statistics,
    writer,
)
from vla.types import Spec

HISTORY, CHUNK = 3, 2
IMAGE_FILES, VIDEO_FILES = 5, 7
# Mean absolute difference of a decoded frame to what was recorded, of 255, for smooth pictures.
CODEC_BOUND = 4.0
SPEC = Spec(
    {"front": (32, 48), "wrist": (24, 24)}, ("x", "y", "g"), ("dx", "dy"), (-1, -2), (1, 2), 12.5
)
VIDEOS = {
    "h264": VideoConfig(),
    "av1": VideoConfig(codec="av1"),
    "h264-444": VideoConfig(pix_fmt="yuv444p", gop=5),
}
SIDE = Path(__file__).with_name("lerobot_side.py")
FFMPEG = ("avutil", "avcodec", "avformat", "avdevice", "avfilter", "swscale", "swresample")


def episode(number: int, *, smooth: bool = False) -> Episode:
    """Its content follows from its number: noise, or for videos pictures whose brightness tells episode and step."""
    rng = np.random.default_rng(number)
    L = 6 + number
    images = {
        c: rng.integers(0, 256, (L, *size, 3), dtype=np.uint8) for c, size in SPEC.cameras.items()
    }
    if smooth:
        images = {c: coloured(number, L, *size) for c, size in SPEC.cameras.items()}
    return Episode(
        images=images,
        state=rng.normal(size=(L, 3)).astype(np.float32),
        actions=rng.uniform([-1, -2], [1, 2], (L, 2)).astype(np.float32),
        rewards=rng.normal(size=L).astype(np.float32),
        success=np.arange(L) == L - 1,
        terminated=bool(number % 2),
        instruction=f"task {number % 2}",
        info={"seed": number},
    )


def coloured(number: int, L: int, H: int, W: int) -> np.ndarray:
    """Smooth pictures (L, H, W, 3): red tells the step, green grows downwards, blue to the right."""
    t, y, x = np.meshgrid(np.arange(L), np.arange(H) / H, np.arange(W) / W, indexing="ij")
    return np.stack([40 + 40 * number + 8 * t, 60 + 100 * y, 200 - 120 * x], -1).astype(np.uint8)


# --- calling lerobot --------------------------------------------------------------------------------


def link_ffmpeg(python: str, folder: Path) -> str:
    """Folders in which torchcodec finds FFmpeg: the one that the interpreter's `av` brings, under its usual names."""
    where = subprocess.run(
        [python, "-c", "import av; print(av.__file__)"], check=True, capture_output=True, text=True
    )
    libraries = Path(where.stdout.strip()).parent.with_name("av.libs")
    folder.mkdir()
    for name in FFMPEG:
        for file in libraries.glob(f"lib{name}-*.so.*"):
            major = file.name.partition(".so.")[2].partition(".")[0]
            (folder / f"lib{name}.so.{major}").symlink_to(file)
    return os.pathsep.join([str(folder), str(libraries), os.environ.get("LD_LIBRARY_PATH", "")])


class LeRobot:
    """The interpreter where lerobot is installed, and what its environment names."""

    def __init__(self, python: str, work: Path) -> None:
        self.python = python
        self.environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(work / "hf"),
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "SVT_LOG": "1",
            "LD_LIBRARY_PATH": link_ffmpeg(python, work / "ffmpeg"),
        }

    def __call__(self, *arguments: object) -> None:
        """Raises RuntimeError with what lerobot printed where it fails; its encoders' chatter is not shown otherwise."""
        command = [self.python, str(SIDE), *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
            )


# --- lerobot reads ours -----------------------------------------------------------------------------


def compare(result: Path, root: Path) -> str:
    """Windows and tasks that lerobot read of the dataset, and its statistics, equal ours, value by value."""
    theirs, backend = np.load(result), result.name.split(".")[-2]
    dataset = EpisodeDataset(root)
    windows = Windows(dataset, history=HISTORY, chunk=CHUNK)
    ours = windows.batch(np.arange(len(windows)))
    assert (int(theirs["episodes"]), int(theirs["frames"])) == (
        dataset.num_episodes,
        dataset.num_frames,
    )
    assert theirs["tasks"].tolist() == ours.instruction, "tasks differ"
    np.testing.assert_array_equal(theirs["observation.state"], ours.state)
    np.testing.assert_array_equal(theirs["observation.state_is_pad"], ~ours.mask)
    np.testing.assert_array_equal(theirs["action"], ours.actions[:, -1])
    np.testing.assert_array_equal(theirs["action_is_pad"], ~ours.action_mask[:, -1])
    np.testing.assert_array_equal(theirs["frame_index"], ours.timesteps[:, -1])
    np.testing.assert_array_equal(theirs["next.reward"], ours.rewards[:, -1])
    np.testing.assert_array_equal(theirs["next.terminated"], ours.terminals[:, -1])
    for camera, images in ours.images.items():
        pixels = (
            np.moveaxis(theirs[f"observation.images.{camera}"] * 255, -3, -1)
            .round()
            .astype(np.uint8)
        )
        np.testing.assert_array_equal(pixels, images)
        assert theirs[f"stats/observation.images.{camera}/mean"].shape == (3, 1, 1)
    exact = true_statistics(windows.actions)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(
            theirs[f"stats/action/{name}"], getattr(exact, name), rtol=1e-5, atol=1e-6
        )
    how = "images" if backend == "images" else f"video by {backend}"
    return (
        f"{dataset.num_episodes} episodes, {dataset.num_frames} windows of {HISTORY} frames ({how}), "
        "numbers, tasks and statistics equal"
    )


def written_here(folder: Path, video: VideoConfig | None = None) -> Path:
    """Four episodes by two writers, the second of which goes on in another video file."""
    for first, limit in ((0, writer.OPEN_VIDEO_BYTES), (2, 1)):
        with (
            mock.patch.object(writer, "OPEN_VIDEO_BYTES", limit),
            DatasetWriter(folder, SPEC, robot_type="test arm", video=video, resume=True) as dataset,
        ):
            for number in (first, first + 1):
                dataset.add_episode(episode(number, smooth=video is not None))
    return folder


def interrupted(folder: Path, video: VideoConfig | None) -> Iterator[Path]:
    """Datasets whose writer failed after each file of an episode (info.json, the last one, never came), and was closed."""
    replace = os.replace
    for survived in range(IMAGE_FILES if video is None else VIDEO_FILES):
        root = folder / f"dead-after-{survived}-files-{'images' if video is None else 'video'}"
        calls: list[str] = []

        def dying(
            source: str, target: str, calls: list[str] = calls, survived: int = survived
        ) -> None:
            calls.append(target)
            if len(calls) > survived:
                raise OSError("the writer died")
            replace(source, target)

        with DatasetWriter(root, SPEC, video=video) as dataset:
            dataset.add_episode(episode(0, smooth=video is not None))
            with suppress(OSError), mock.patch.object(atomic.os, "replace", dying):
                dataset.add_episode(episode(1, smooth=video is not None))
        assert len(calls) > survived, f"an episode has {len(calls)} files"
        yield root


def near_what_was_recorded(root: Path) -> str:
    """How far our own decoding of a video dataset is from what was recorded."""
    dataset = EpisodeDataset(root)
    worst = 0.0
    for number in range(dataset.num_episodes):
        found, recorded = dataset.episode(number), episode(number, smooth=True)
        for camera in SPEC.cameras:
            difference = np.abs(found.frames(camera).astype(int) - recorded.frames(camera)).mean(
                (1, 2, 3)
            )
            worst = max(worst, float(difference.max()))
    assert worst <= CODEC_BOUND, f"{root.name}: {worst:.2f} of 255"
    return f"each frame within {worst:.2f} of 255 of what was recorded, on average over its pixels"


# --- we read lerobot's ------------------------------------------------------------------------------


def read_what_lerobot_wrote(lerobot: LeRobot, work: Path, storage: str) -> str:
    root = work / f"by-lerobot-{storage}"
    lerobot("write", root, storage)
    dataset = EpisodeDataset(root)
    assert dataset.num_episodes == 3
    assert dataset.instructions == ["task 0", "task 1"]
    assert dataset.spec.cameras == {"top": (64, 96)}
    assert (dataset.spec.action_names, dataset.spec.state_names) == (("dx", "dy"), ("x", "y"))
    np.testing.assert_allclose(dataset.spec.action_low, [0, -0.5], atol=1e-6)
    for number in range(3):
        found, steps = dataset.episode(number), np.arange(4 + number)
        assert found.instruction == f"task {number % 2}"
        brightness = (40 * number + 8 * steps)[:, None, None, None]
        difference = np.abs(found.frames("top").astype(int) - brightness).mean((1, 2, 3))
        assert difference.max() <= (0 if storage == "images" else CODEC_BOUND), (
            f"frames differ by {difference}"
        )
        np.testing.assert_array_equal(found.state[:, 1], steps)
        actions = np.stack(
            [np.full(len(steps), np.float32(0.1 * number)), (-0.1 * steps).astype(np.float32)], 1
        )
        np.testing.assert_array_equal(found.actions, actions)
        np.testing.assert_array_equal(found.rewards, steps)
    return (
        f"{dataset.num_episodes} episodes, {dataset.num_frames} frames, numbers equal, spec derived"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot-python", required=True)
    parser.add_argument("--dataset", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        lerobot = LeRobot(arguments.lerobot_python, work)
        videos = [written_here(work / f"ours-{name}", video) for name, video in VIDEOS.items()]
        datasets = [written_here(work / "ours-images"), *videos]
        datasets += [*interrupted(work, None), *interrupted(work, VideoConfig())]
        datasets += [dataset.resolve() for dataset in arguments.dataset]
        results = work / "results"
        results.mkdir()
        lerobot("read", HISTORY, CHUNK, results, *datasets)
        for root in datasets:
            for result in sorted(results.glob(f"{root.name}.*.npz")):
                print(f"lerobot reads {root.name}: {compare(result, root)}", flush=True)
        for root in videos:
            print(f"{root.name}: {near_what_was_recorded(root)}", flush=True)
        for storage in ("images", "h264", "libsvtav1"):
            print(
                f"we read lerobot's {storage}:",
                read_what_lerobot_wrote(lerobot, work, storage),
                flush=True,
            )
    print("interop: all equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
