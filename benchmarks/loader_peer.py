"""Samples per second of our windows against lerobot 0.4.4's LeRobotDataset: the same files, read at random.

A sample is a history of 6 frames of 128 px with their states, and 10 actions. Both sides read one dataset written here, once
with images and once with video, with as many workers: none (each batch is made when it is asked for), then 2 (torch's
DataLoader with 2 processes; of our 2 threads one makes batches ahead and the other helps it copy).

- "uint8": batches as our training step gets them; normalisation runs on the device.
- "float32": the same with images divided by 255 as (B, T, 3, H, W), which is what lerobot's batches are.

Frames are decoded once, into memory ("ram") or a memory-mapped file ("disk"). That counts where it happens: in the seconds
until the first batch. lerobot decodes at every sample. "CPU ms" is what a sample costs all processors together: on a machine that
others use, it says more than the clock.
`make bench-loader_peer` makes the peer's environment, `.venv-interop`, first.

    python benchmarks/loader_peer.py [--episodes 20] [--steps 100] [--batches 4] [--rounds 3] [--kinds image video]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from _common import alternate, publish, summary
from _process import JsonProcess

HERE = Path(__file__).parent
SIZE, HISTORY, CHUNK, FPS, CAMERA = 128, 6, 10, 20, "front"
OURS = {"uint8, ram": ("ram", False), "float32, ram": ("ram", True), "uint8, disk": ("disk", False)}
THEIRS = "lerobot"


class Side(JsonProcess):
    """One side's process (see `_loader_serve`)."""

    def __init__(
        self, interpreter: str, script: str, settings: dict[str, Any], env: dict[str, str]
    ) -> None:
        super().__init__(
            interpreter, script, settings, {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **env}
        )
        self.memory = [self.facts.pop("memory")]
        self.cpu: list[float] = []

    def seconds(self, batches: int) -> float:
        """By the clock. Beside them the seconds of processors are noted, per batch."""
        found = self.ask(batches=batches)
        self.memory.append(found["memory"])
        self.cpu.append(found["cpu"] / batches)
        return float(found["seconds"])


def pictures(rng: np.random.Generator, steps: int) -> np.ndarray:
    """uint8 (steps, SIZE, SIZE, 3): a shaded table, five blocks that move over it, and a camera's noise."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    table = (
        90 + 60 * rng.uniform(-1, 1, 3) * x[..., None] + 60 * rng.uniform(-1, 1, 3) * y[..., None]
    )
    frames = np.repeat(table[None], steps, 0)
    for _ in range(5):
        place = np.cumsum(rng.normal(0, 1.5, (steps, 2)), 0) + rng.uniform(20, SIZE - 40, 2)
        size, colour = rng.integers(8, 28, 2), rng.uniform(0, 255, 3)
        for frame, (top, left) in zip(frames, place.clip(0, SIZE - 28).astype(int), strict=True):
            frame[top : top + size[0], left : left + size[1]] = colour
    return (frames + rng.normal(0, 1.5, frames.shape)).clip(0, 255).astype(np.uint8)


def make_dataset(root: Path, kind: str, episodes: int, steps: int) -> int:
    """Writes the dataset. Returns its bytes."""
    from vla.data import DatasetWriter, Episode
    from vla.data.storage.video import VideoConfig
    from vla.types import Spec

    names = tuple(f"joint_{i}" for i in range(7))
    spec = Spec({CAMERA: (SIZE, SIZE)}, names, names, (-1.0,) * 7, (1.0,) * 7, FPS)
    rng = np.random.default_rng(0)
    with DatasetWriter(root, spec, video=VideoConfig() if kind == "video" else None) as writer:
        for _ in range(episodes):
            writer.add_episode(
                Episode(
                    images={CAMERA: pictures(rng, steps)},
                    state=rng.normal(size=(steps, 7)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
                    rewards=np.zeros(steps, np.float32),
                    success=np.zeros(steps, bool),
                    terminated=False,
                    instruction="put the block on the plate",
                )
            )
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


@contextmanager
def codec_libraries(peer: Path) -> Iterator[dict[str, str]]:
    """Lets torchcodec find FFmpeg where the system has none: in the libraries that PyAV brought, under their usual names."""
    [*found] = peer.absolute().parent.parent.glob("lib/python*/site-packages/av.libs")
    if not found:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        for library in found[0].glob("lib*.so.*"):
            name, _, version = library.name.partition(".so.")
            (Path(folder) / f"{name.rpartition('-')[0]}.so.{version.split('.')[0]}").symlink_to(
                library
            )
        known = os.environ.get("LD_LIBRARY_PATH", "")
        yield {"LD_LIBRARY_PATH": ":".join(filter(None, [known, folder, str(found[0])]))}


def measure(
    root: Path, workers: int, arguments: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """One kind of dataset with one number of workers: every side opens it, then they are clocked in turn."""
    common = {
        "root": str(root),
        "workers": workers,
        "batch": arguments.batch,
        "history": HISTORY,
        "chunk": CHUNK,
    }
    sides: dict[str, Side] = {}
    try:
        for name, (cache, floats) in OURS.items():
            settings = common | {
                "cache": cache,
                "floats": floats,
                "cache_folder": str(folder / "cache"),
            }
            sides[name] = Side(
                sys.executable, "_loader_ours.py", settings, {"PYTHONPATH": str(HERE.parent)}
            )
        with codec_libraries(arguments.peer) as env:
            settings = common | {"camera": f"observation.images.{CAMERA}", "fps": FPS, "size": SIZE}
            env |= {"HF_HOME": str(folder / "hf"), "CUDA_VISIBLE_DEVICES": ""}
            sides[THEIRS] = Side(str(arguments.peer), "_loader_lerobot.py", settings, env)
            return clock(sides, arguments)
    finally:
        for side in sides.values():
            side.close()


def clock(sides: dict[str, Side], arguments: argparse.Namespace) -> dict[str, Any]:
    """-> what was found for each side."""
    batches = {
        name: arguments.batches * (1 if name == THEIRS else arguments.more) for name in sides
    }

    def turn(name: str) -> Callable[[], float]:
        return lambda: sides[name].seconds(batches[name]) / (batches[name] * arguments.batch)

    times = alternate(
        {name: turn(name) for name in sides}, rounds=arguments.rounds, warmup=arguments.warmup
    )
    found = {}
    for name, side in sides.items():
        per_sample = summary(times[name])
        found[name] = {
            "samples_per_second": round(1 / per_sample["median"], 1),
            "cpu_ms_per_sample": round(
                1000 * statistics.median(side.cpu[arguments.warmup :]) / arguments.batch, 4
            ),
            "quartiles": [round(1 / per_sample[key], 1) for key in ("q75", "q25")],
            "first_batch_seconds": round(side.facts.pop("first"), 2),
            "first_batch_again_seconds": round(side.ask(again=True)["first"], 2),
            "held_mib": max(entry["held"] for entry in side.memory),
            "cached_mib": max(entry["cached"] for entry in side.memory),
            **side.facts,
        }
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="of every episode")
    parser.add_argument("--batch", type=int, default=64, help="samples")
    parser.add_argument("--batches", type=int, default=4, help="of lerobot in a round")
    parser.add_argument(
        "--more",
        type=int,
        default=50,
        help="so many times as many of ours, or they could not be clocked",
    )
    parser.add_argument("--rounds", type=int, default=3, help="every side is clocked once in each")
    parser.add_argument("--warmup", type=int, default=1, help="rounds that do not count")
    parser.add_argument(
        "--kinds", nargs="+", choices=("image", "video"), default=("image", "video")
    )
    parser.add_argument("--workers", nargs="+", type=int, default=(0, 2))
    parser.add_argument(
        "--out", type=Path, help="file of the result; results/loader_peer.json by default"
    )
    parser.add_argument(
        "--peer", type=Path, default=Path(".venv-interop/bin/python"), help="lerobot's interpreter"
    )
    arguments = parser.parse_args()
    if not arguments.peer.is_file():
        print(
            f"loader_peer: no interpreter {arguments.peer}: run `make bench-loader_peer`, which makes it",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return arguments


def table_of(cases: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> Any:
    from rich.table import Table

    title = f"{arguments.episodes * arguments.steps} frames of {SIZE} px, {HISTORY} frames and {CHUNK} actions, shuffled"
    table = Table(title=title)
    heads = (
        "data",
        "workers",
        "side",
        "samples/s",
        "x",
        "CPU ms",
        "first s",
        "again s",
        "MiB",
        "cached",
    )
    for number, column in enumerate(heads):
        table.add_column(column, justify="left" if number in (0, 2) else "right", no_wrap=True)
    for case in cases:
        for name, found in case["sides"].items():
            label = f"{name}, {found['video_backend']}" if found.get("video_backend") else name
            table.add_row(
                case["dataset"],
                str(case["workers"]),
                label,
                f"{found['samples_per_second']:.0f}",
                f"{case['ratio'][name]:.1f}" if name in case["ratio"] else "",
                f"{found['cpu_ms_per_sample']:.3f}",
                f"{found['first_batch_seconds']:.1f}",
                f"{found['first_batch_again_seconds']:.1f}",
                f"{found['held_mib']:.0f}",
                f"{found['cached_mib']:.0f}",
            )
    return table


def main() -> None:
    from rich.console import Console

    arguments = parse()
    cases, written = [], {}
    with tempfile.TemporaryDirectory() as work, Console(stderr=True).status("writing") as status:
        for kind in arguments.kinds:
            root = Path(work) / kind
            written[kind] = make_dataset(root, kind, arguments.episodes, arguments.steps)
            for workers in arguments.workers:
                status.update(f"{kind}, {workers} workers")
                folder = (
                    Path(work) / f"{kind}-{workers}"
                )  # neither side finds what the case before has kept
                sides = measure(root, workers, arguments, folder)
                speeds = {name: found["samples_per_second"] for name, found in sides.items()}
                ratio = {name: round(speeds[name] / speeds[THEIRS], 1) for name in OURS}
                cases.append({"dataset": kind, "workers": workers, "ratio": ratio, "sides": sides})
    first, key = cases[0], next(iter(OURS))
    publish(
        "loader_peer",
        ours=first["sides"][key]["samples_per_second"],
        theirs=first["sides"][THEIRS]["samples_per_second"],
        ratio=first["ratio"][key],
        unit=f"samples per second from {first['dataset']}s with {first['workers']} workers, ours as {key}; `cases` has all",
        table=table_of(cases, arguments),
        path=arguments.out,
        cases=cases,
        lerobot="0.4.4",
        dataset_bytes=written,
        frames=arguments.episodes * arguments.steps,
        size=SIZE,
        history=HISTORY,
        chunk=CHUNK,
        batch=arguments.batch,
        batches={"lerobot": arguments.batches, "ours": arguments.batches * arguments.more},
        rounds=arguments.rounds,
        method=(
            "every side in a process of its own with one thread of arithmetic, clocked in turn, order swapped in every "
            "second round, medians; what was made ahead is taken before the clock starts, and nobody works while another is "
            "clocked; first batch: from opening, with nothing kept from before (ours decodes all frames, lerobot's "
            "`datasets` makes its arrow files); again: a second opening in the same process; memory: processes and workers "
            "together, shared pages once, the greatest of all rounds"
        ),
    )


if __name__ == "__main__":
    main()
