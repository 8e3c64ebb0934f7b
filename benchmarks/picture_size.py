"""Frames held at the size that the policy sees: what a cache weighs and takes, and how fast a policy trains from it.

A set of videos is written (480x640 by default). A policy that sees 96x96 opens it in processes of its own, once for each
way of keeping frames: `ram`, `disk`, `stream`, `tight`, a stream whose memory holds a quarter of the set, so that every
epoch decodes it again, and `whole`, which streams frames of the stored size and leaves resizing to the policy. Each says how long the frames took to build (nothing for streams), what they weigh, how many frames per second
come as batches (loader), and with how many a small RT-1 trains. With a history of one step a window is one frame. A turn is
an epoch, and its clock stops when what is read ahead is decoded, so that streams decode every frame once per turn; the
first turn fills the read-ahead and is not counted.

    python benchmarks/picture_size.py [--episodes 50] [--length 60] [--rounds 3] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import cpu_count, prepare_cpu, publish, rt1_spec, summary

SIDES = ("ram", "disk", "stream", "tight", "whole")
MEMORY_GB = 2.0
TARGET = 150
"""Frames per second that a stream is to reach on two quiet cores."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--length", type=int, default=60, help="steps of an episode")
    parser.add_argument("--height", type=int, default=480, help="of the videos")
    parser.add_argument("--width", type=int, default=640, help="of the videos")
    parser.add_argument("--size", type=int, default=96, help="height and width that are seen")
    parser.add_argument("--trunk", default="test_efficientnet", help="of the policy")
    parser.add_argument("--batch", type=int, default=64, help="windows of a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(json.loads(arguments.serve))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write(root, arguments)
        videos = sum(file.stat().st_size for file in root.rglob("*.mp4"))
        settings = {name: getattr(arguments, name) for name in ("size", "trunk", "batch")}
        settings |= {"data": str(root), "threads": arguments.threads, "rounds": arguments.rounds}
        # one after the other: each has the machine for itself
        found = {side: run({**settings, "side": side}) for side in SIDES}
    frames = arguments.episodes * arguments.length
    whole = frames * arguments.height * arguments.width * 3
    speeds = {
        side: {work: frames / seconds["median"] for work, seconds in values["seconds"].items()}
        for side, values in found.items()
    }
    publish(
        "picture_size",
        ours=speeds["stream"]["train"],
        theirs=speeds["whole"]["train"],
        ratio=speeds["stream"]["train"] / speeds["whole"]["train"],
        unit="frames/s of training, streamed at the size seen against streamed whole",
        table=table(found, speeds, whole),
        frames=frames,
        stored=[arguments.height, arguments.width],
        seen=[arguments.size, arguments.size],
        video_bytes=videos,
        whole_bytes=whole,
        cache_ratio=round(whole / found["disk"]["bytes"], 1),
        sides=found,
        frames_per_s={
            side: {work: round(speed, 1) for work, speed in of_side.items()}
            for side, of_side in speeds.items()
        },
        target_frames_per_s=TARGET,
        threads=arguments.threads,
        trunk=arguments.trunk,
        batch=arguments.batch,
    )


def table(found: dict[str, Any], speeds: dict[str, dict[str, float]], whole: int) -> Any:
    from rich.table import Table

    shown = Table(title=f"whole frames: {whole / 2**20:.0f} MiB")
    columns = ("frames", "MiB", "build s", "loader frames/s", "training frames/s", "peak MiB")
    for column in columns:
        shown.add_column(column, justify="left" if column == "frames" else "right")
    for side, values in found.items():
        shown.add_row(
            side,
            f"{values['bytes'] / 2**20:.1f}",
            f"{values['build_seconds']:.1f}",
            f"{speeds[side]['loader']:.0f}",
            f"{speeds[side]['train']:.0f}",
            str(round(values["memory"] / 2**20)),
        )
    return shown


def write(root: Path, arguments: argparse.Namespace) -> None:
    """Scenes of a blurred background with some noise, before which three blocks move."""
    from PIL import Image

    from vla.data import DatasetWriter, Episode, VideoConfig

    h, w, L = arguments.height, arguments.width, arguments.length
    rng = np.random.default_rng(0)
    spec = rt1_spec(1)
    spec = type(spec).from_dict({**spec.to_dict(), "cameras": {"head": [h, w]}})
    low = np.asarray(spec.action_low)
    high = np.asarray(spec.action_high)
    with DatasetWriter(root, spec, video=VideoConfig()) as writer:
        for number in range(arguments.episodes):
            coarse = Image.fromarray(rng.integers(0, 200, (12, 16, 3), np.uint8))
            scene = np.asarray(coarse.resize((w, h), Image.Resampling.BICUBIC), np.float32)
            scene = (scene + 4 * rng.standard_normal(scene.shape)).clip(0, 255).astype(np.uint8)
            images = np.repeat(scene[None], L, axis=0)
            for _ in range(3):
                top, left = int(rng.integers(0, h // 2)), int(rng.integers(0, w // 2))
                colour = rng.integers(0, 256, 3)
                for t in range(L):
                    images[t, top : top + h // 6, left + t : left + t + w // 8] = colour
            writer.add_episode(
                Episode(
                    images={"head": images},
                    state=np.zeros((L, 0), np.float32),
                    actions=rng.uniform(low, high, (L, spec.action_dim)).astype(np.float32),
                    rewards=np.zeros(L, np.float32),
                    success=np.zeros(L, bool),
                    terminated=False,
                    instruction=f"do task {number % 3}",
                )
            )


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """What one side measured, in a process of its own."""
    print(f"{settings['side']} ...", file=sys.stderr)
    threads = str(settings["threads"])
    done = subprocess.run(
        [sys.executable, __file__, "--serve", json.dumps(settings)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads},
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


# --- a side -----------------------------------------------------------------------------------------------


def serve(settings: dict[str, Any]) -> None:
    import torch
    from streaming import Peak, learn

    from vla.data import EpisodeDataset, Windows, prefetch
    from vla.data.loading.streaming.streamed_windows import StreamedWindows
    from vla.models import RT1Config
    from vla.training.run_data.windows import at_size_seen, sizes_seen

    prepare_cpu(settings["threads"])
    side = settings["side"]
    dataset = EpisodeDataset(settings["data"])
    policy = RT1Config(
        trunk=settings["trunk"],
        image_size=(settings["size"], settings["size"]),
        history=1,
        width=128,
        depth=2,
        heads=4,
        key_dim=32,
    ).build(dataset.spec)
    policy.language.embed(dataset.instructions)
    policy.train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    if side != "whole":
        dataset = at_size_seen(dataset, sizes_seen([policy]))
    h, w = dataset.spec.cameras["head"]
    set_bytes = int(dataset.episodes["length"].sum()) * h * w * 3
    learn(policy, optimizer, dataset.spec.fake_batch(settings["batch"], 1))
    with Peak() as peak:
        start = time.perf_counter()
        windows: Windows
        if side in ("ram", "disk"):
            windows = Windows(dataset, history=1, chunk=1, cache=side)
        else:
            memory_gb = set_bytes / 4 / 2**30 if side == "tight" else MEMORY_GB
            windows = StreamedWindows(dataset, history=1, chunk=1, memory_gb=memory_gb)
        build_seconds = time.perf_counter() - start
        order = windows.order(batch_size=settings["batch"], seed=0)
        epoch = len(windows) // settings["batch"]
        seconds: dict[str, list[float]] = {"loader": [], "train": []}
        begin = 0
        for turn in range(settings["rounds"] + 1):
            for work, measured in seconds.items():
                start = time.perf_counter()
                steps = range(begin, begin + epoch)
                for batch in prefetch(windows.batch(order.indices(step)) for step in steps):
                    if work == "train":
                        learn(policy, optimizer, batch)
                if isinstance(windows, StreamedWindows):
                    windows.wait()
                begin += epoch
                if turn > 0:
                    measured.append(time.perf_counter() - start)
        found = {
            "bytes": set_bytes,
            "build_seconds": round(build_seconds, 2),
            "seconds": {work: summary(measured) for work, measured in seconds.items()},
            "memory": peak.value,
        }
    cache = Path(settings["data"]) / ".cache"
    if side == "disk":
        found["bytes"] = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
