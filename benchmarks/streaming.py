"""Training on data that does not fit the memory for frames, against the same training with all frames in memory.

A dataset of `--episodes` episodes of PNG images is written and opened twice, each in its own process: with `cache: ram`, and
streamed with a budget of `1 / --times` of the decoded frames. Both make batches (loader alone), and train RT-1 on them, in
turn. A turn is as many batches as an epoch has, so that every frame is decoded about once per turn on the streamed side; its
clock stops when what it reads ahead is decoded, too, so that nothing is done in the other side's time. `ratio` is the
streamed speed over the one from memory while training. Memory is what the process held beyond what it held before it opened
the data, at its peak.

    python benchmarks/streaming.py [--episodes 100] [--size 128] [--times 8] [--rounds 3] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import alternate, cpu_count, publish, summary

LENGTH, HISTORY = 50, 6
SIDES = ("ram", "stream")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=100, help=f"of {LENGTH} steps each")
    parser.add_argument("--size", type=int, default=128, help="height and width of images")
    parser.add_argument(
        "--times", type=float, default=8.0, help="how many times the budget the decoded frames are"
    )
    parser.add_argument("--batch", type=int, default=16, help="windows of a batch")
    parser.add_argument(
        "--trunk",
        default="efficientnet_b0",
        help="the network's; the faster it is, the more the data count",
    )
    parser.add_argument(
        "--train-steps", type=int, default=0, help="training steps of a turn; by default an epoch"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=cpu_count(), help="threads of the network and of decoding"
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(json.loads(arguments.serve))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    frames = arguments.episodes * LENGTH
    decoded = frames * arguments.size**2 * 3
    epoch = frames // arguments.batch
    steps = {"loader": epoch, "train": arguments.train_steps or epoch}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "data", arguments.episodes, arguments.size)
        settings = {
            "data": f"{folder}/data",
            "memory_gb": decoded / arguments.times / 2**30,
            "batch": arguments.batch,
            "threads": arguments.threads,
            "trunk": arguments.trunk,
        }
        sides = {name: Side({"side": name, **settings}) for name in SIDES}
        seconds, peaks = {}, {}
        for work, count in steps.items():
            seconds[work] = alternate(
                {name: side.clock(work, count) for name, side in sides.items()},
                rounds=arguments.rounds,
                warmup=1,
                tell=lambda text, work=work: print(f"{work}: {text}", file=sys.stderr),
            )
            peaks[work] = {name: round(side.memory / 2**20) for name, side in sides.items()}
        read = sides["stream"].decoded
    speeds = {
        work: {name: steps[work] / summary(found)["median"] for name, found in sides.items()}
        for work, sides in seconds.items()
    }
    publish(
        "streaming",
        ours=speeds["train"]["stream"],
        theirs=speeds["train"]["ram"],
        ratio=speeds["train"]["stream"] / speeds["train"]["ram"],
        unit="training steps/s, streamed against in memory",
        table=table(speeds, peaks, decoded),
        decoded_mib=round(decoded / 2**20),
        budget_mib=round(decoded / arguments.times / 2**20),
        peak_mib=peaks,
        frames=frames,
        frames_decoded=read,
        steps_per_turn=steps,
        batches_per_s={name: round(value, 3) for name, value in speeds["loader"].items()},
        loader_ratio=round(speeds["loader"]["stream"] / speeds["loader"]["ram"], 3),
        seconds={
            work: {name: summary(found) for name, found in sides.items()}
            for work, sides in seconds.items()
        },
        threads=arguments.threads,
        trunk=arguments.trunk,
    )


def table(
    speeds: dict[str, dict[str, float]], peaks: dict[str, dict[str, int]], decoded: int
) -> Any:
    from rich.table import Table

    found = Table(title=f"{decoded / 2**20:.0f} MiB of decoded frames")
    for column in (
        "frames",
        "batches/s, loader alone",
        "peak MiB",
        "steps/s, training",
        "peak MiB",
    ):
        found.add_column(column, justify="left" if column == "frames" else "right")
    for name in SIDES:
        cells = [
            text
            for work in speeds
            for text in (f"{speeds[work][name]:.2f}", str(peaks[work][name]))
        ]
        found.add_row(name, *cells)
    return found


def write(root: Path, episodes: int, size: int) -> None:
    """Scenes of coloured blobs that move, which PNG makes about as small as real ones."""
    from _common import rt1_spec

    from vla.data import DatasetWriter, Episode

    spec, rng = rt1_spec(size), np.random.default_rng(0)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    with DatasetWriter(root, spec) as writer:
        for number in range(episodes):
            images = np.empty((LENGTH, size, size, 3), np.float32)
            images[:] = rng.uniform(0, 128, 3) + 6 * rng.standard_normal((size, size, 3))
            for _ in range(6):
                place, way, colour = (
                    rng.uniform(0, 1, 2),
                    rng.uniform(-0.01, 0.01, 2),
                    rng.uniform(0, 255, 3),
                )
                for t in range(LENGTH):
                    near = (x - place[0] - t * way[0]) ** 2 + (
                        y - place[1] - t * way[1]
                    ) ** 2 < 0.01
                    images[t, near] = colour
            low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
            writer.add_episode(
                Episode(
                    images={"head": images.clip(0, 255).astype(np.uint8)},
                    state=np.zeros((LENGTH, 0), np.float32),
                    actions=rng.uniform(low, high, (LENGTH, spec.action_dim)).astype(np.float32),
                    rewards=np.zeros(LENGTH, np.float32),
                    success=np.zeros(LENGTH, bool),
                    terminated=False,
                    instruction=f"do task {number % 3}",
                )
            )


class Side:
    """A process that works on command."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": str(settings["threads"]),
            },
        )
        self.memory = 0
        self.decoded = 0
        self._answer()

    def clock(self, work: str, steps: int) -> Callable[[], float]:
        """A function that has the side work once and returns its seconds."""

        def run() -> float:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"work": work, "steps": steps}) + "\n")
            self.process.stdin.flush()
            return float(self._answer()["seconds"])

        return run

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"streaming: a side ended with status {self.process.wait()}; see above"
            )
        found = dict(json.loads(line))
        self.memory, self.decoded = found["memory"], found["decoded"]
        return found


# --- a side -----------------------------------------------------------------------------------------------


def serve(settings: dict[str, Any]) -> None:
    import torch
    from _common import prepare_cpu, rt1_spec

    from vla.data import EpisodeDataset, Windows, WindowSampler, prefetch
    from vla.data.loading.streaming.streamed_windows import StreamedWindows
    from vla.models import RT1Config

    prepare_cpu(settings["threads"])
    dataset = EpisodeDataset(settings["data"])
    policy = RT1Config(
        trunk=settings["trunk"], pretrained=False, width=256, depth=4, key_dim=32
    ).build(rt1_spec(next(iter(dataset.spec.cameras.values()))[0]))
    policy.language.embed(dataset.instructions)
    policy.train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    learn(policy, optimizer, policy.spec.fake_batch(settings["batch"], HISTORY))
    with Peak() as peak:
        options = {"history": HISTORY, "chunk": 1}
        windows: Windows
        if settings["side"] == "stream":
            windows = StreamedWindows(
                dataset, memory_gb=settings["memory_gb"], decoders=settings["threads"], **options
            )
            order = windows.order(batch_size=settings["batch"], seed=0)
        else:
            windows = Windows(dataset, cache="ram", **options)
            order = WindowSampler(len(windows), batch_size=settings["batch"], seed=0)
        done = 0
        tell(0.0, peak, windows)
        for line in sys.stdin:
            request = json.loads(line)
            steps = range(done, done + request["steps"])
            start = time.perf_counter()
            for batch in prefetch(windows.batch(order.indices(step)) for step in steps):
                if request["work"] == "train":
                    learn(policy, optimizer, batch)
            if isinstance(windows, StreamedWindows):
                windows.wait()
            done = steps.stop
            tell(time.perf_counter() - start, peak, windows)


def learn(policy: Any, optimizer: Any, batch: Any) -> None:
    loss = policy(batch).actions.loss(batch.actions, batch.action_mask).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def tell(seconds: float, peak: Peak, windows: Any) -> None:
    found = {"seconds": seconds, "memory": peak.value, "decoded": getattr(windows, "decoded", 0)}
    print(json.dumps(found), flush=True)


class Peak:
    """The greatest resident memory beyond that at the beginning, looked at fifty times a second."""

    def __enter__(self) -> Peak:
        import psutil

        self._process = psutil.Process()
        self._begin, self.value = self._process.memory_info().rss, 0
        self._stop = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self.value = max(self.value, self._process.memory_info().rss - self._begin)


if __name__ == "__main__":
    main()
