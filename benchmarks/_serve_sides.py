"""The sides of `serve.py`: server processes, the robots that load them, and what a lone robot would have done."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _serve_robots import POOL, observations

from vla.control.inference_mode import inference
from vla.models import RT1, RT1Config
from vla.types import Observation, Spec

HERE = Path(__file__).parent
CLIENT_PROCESSES = 4
START_AFTER = 1.0
"""Seconds between the signal and the first observations: robots connect meanwhile."""
COMPARED_ROBOTS = 4
"""Of each run: a lone robot has to do again what all of them did."""
CONFIG = {
    "trunk": "test_efficientnet",
    "stride": 8,
    "width": 256,
    "depth": 2,
    "heads": 8,
    "key_dim": 32,
    "feed_forward": "gelu",
    "dropout": 0.0,
    "language_dim": 128,
    "token_positions": True,
    "state_token": True,
    "random_shift": (0, 0),
}
"""RT-1 of the size that learns the tabletop."""


@dataclass
class Served:
    """A server process. busy: seconds of processor time so far."""

    name: str
    url: str
    process: psutil.Process

    @property
    def busy(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


def make_policy(folder: Path, *, history: int, size: int, device: str) -> RT1:
    """An untrained policy whose actions depend on what it sees, saved in `folder`."""
    import torch

    torch.manual_seed(0)
    names = ("x", "y", "z", "gripper")
    spec = Spec({"front": (size, size)}, names, names, (-1.0,) * 4, (1.0,) * 4, 5)
    policy = RT1Config(**CONFIG, history=history).build(spec)
    policy.language.preload({f"do task {i}": torch.randn(384) / 20 for i in range(4)})
    torch.nn.init.normal_(policy.head.weight)
    for module in policy.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of noise: signals reach the trunk's end
    with torch.no_grad():
        policy.train()(spec.fake_batch(4, history))
    policy.eval().save_pretrained(folder)
    return policy.to(device)


@contextlib.contextmanager
def served(name: str, folder: Path, *, threads: int, device: str) -> Iterator[Served]:
    """The server of a side: `blocking`, or ours with `max_batch=...`."""
    if name == "blocking":
        command = [str(HERE / "_serve_blocking.py"), str(folder), str(threads)]
    else:
        command = ["-m", "vla.cli", "serve", str(folder), "port=0", name, f"threads={threads}"]
        command += [f"device={device}"]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        match = re.search(r"ws://[\d.]+:\d+", process.stdout.readline())
        if match is None:
            raise SystemExit(f"{name}: the server did not start; see above")
        yield Served(name, match[0], psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load(
    server: Served,
    robots: int,
    *,
    hz: float,
    seconds: float,
    warmup: float,
    size: int,
    compared: int,
) -> dict[str, Any]:
    """Milliseconds of waiting of that many robots, misses, and the robots' first actions."""
    settings = {
        "url": server.url,
        "hz": hz,
        "seconds": seconds,
        "warmup": warmup,
        "size": size,
        "state_dim": 4,
        "compared": compared,
    }
    shares = [list(range(first, robots, CLIENT_PROCESSES)) for first in range(CLIENT_PROCESSES)]
    clients = []
    for share in shares:
        if share:
            text = json.dumps({**settings, "robots": share})
            command = [sys.executable, str(HERE / "_serve_robots.py"), text]
            client = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            clients.append(client)
    for client in clients:
        assert client.stdout is not None
        client.stdout.readline()
    busy = server.busy
    start = f"{time.time() + START_AFTER}\n"
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(start)
        client.stdin.flush()
    outputs = [client.communicate()[0] for client in clients]
    busy = server.busy - busy
    found = [robot for output in outputs for robot in json.loads(output or "[]")]
    if len(found) < robots:
        raise SystemExit(f"{server.name}: {robots - len(found)} of {robots} robots failed")
    waits = 1000 * np.concatenate([robot["waits"] for robot in found])
    missing = sum(robot["missing"] for robot in found)
    period = 1000 / hz
    late = int((waits > period).sum()) + missing
    # what was never answered waited longer than anything
    padded = np.append(waits, np.full(missing, np.inf))
    quantiles = [float(np.quantile(padded, q, method="higher")) for q in (0.5, 0.95, 0.99)]
    # JSON has no infinity: None is an answer that never came
    p50, p95, p99 = (value if np.isfinite(value) else None for value in quantiles)
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "misses": late / max(1, len(padded)),
        "observations": len(padded),
        "cpu_share": busy / (warmup + seconds),
        # answers of the warm-up too; a busy machine stretches waits, hardly this
        "cpu_ms_per_answer": 1000 * busy / max(1, len(waits) * (warmup + seconds) / seconds),
        "actions": {r["robot"]: r["actions"] for r in found if r["robot"] < COMPARED_ROBOTS},
    }


def wrong_actions(
    policy: RT1, actions: dict[int, Any], *, size: int, threads: int
) -> tuple[int, int, int]:
    """Compares with lone robots: actions, those that differ in a bit, those that differ by more than a bin."""
    total = bits = tokens = 0
    bin_width = 2 / 255
    with inference(policy, threads=threads):
        for robot, given in actions.items():
            memory = None
            seen = observations(robot, size, policy.spec.state_dim)
            for step, chunk in enumerate(given):
                now = seen[step % POOL]
                observation = Observation.from_numpy(now["images"], now["state"], now["prompt"])
                expected, memory = policy.act(observation, memory)
                difference = np.abs(expected[0].numpy() - np.asarray(chunk, np.float32))
                total += difference.size
                bits += int((difference > 0).sum())
                tokens += int((difference > 1.5 * bin_width).sum())
    return total, bits, tokens
