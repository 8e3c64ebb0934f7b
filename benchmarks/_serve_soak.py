"""Robots that join, leave and are killed while others go on: memory stays, and no two are mixed up.

A probe in place of a policy: a picture carries its robot's number, and the probe answers that number and how many
steps of this robot it remembers. A robot that is given another's memory sees it at once.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from _common import publish
from rich.table import Table
from websockets.sync.client import connect

from vla.serving import ServeConfig, running_server
from vla.types import Observation, Spec
from vla_client.codec import pack, unpack

SPEC = Spec({"front": (16, 16)}, ("x",), ("number", "steps"), (-1.0,) * 2, (1e9,) * 2, 20)
CLIENTS = 8


@dataclass(frozen=True)
class ProbeMemory:
    """steps: (B,), of each robot; number: (B,), whose they are."""

    steps: torch.Tensor
    number: torch.Tensor

    @property
    def batch_size(self) -> int:
        return len(self.steps)

    def select(self, rows: Sequence[int]) -> ProbeMemory:
        return ProbeMemory(self.steps[list(rows)], self.number[list(rows)])

    @classmethod
    def stack(cls, memories: Sequence[ProbeMemory]) -> ProbeMemory:
        steps = torch.cat([memory.steps for memory in memories])
        return cls(steps, torch.cat([memory.number for memory in memories]))


class Probe:
    """Answers what it is shown and what it remembers."""

    spec = SPEC
    history = 2

    def act(
        self, observation: Observation, memory: ProbeMemory | None = None
    ) -> tuple[torch.Tensor, ProbeMemory]:
        pixels = observation.images["front"][:, 0, 0].long()
        number = pixels[:, 0] * 65536 + pixels[:, 1] * 256 + pixels[:, 2]
        steps = torch.zeros(len(number)) if memory is None else memory.steps
        if memory is not None and not torch.equal(memory.number, number):
            raise ValueError(f"memories of {memory.number} for {number}")
        memory = ProbeMemory(steps + 1, number)
        return torch.stack([number.float(), memory.steps], 1)[:, None], memory


def robot(url: str, number: int) -> None:
    """A robot's process: plays until its time is over, and ends with status 3 if it was given another's answer."""
    rng = random.Random(number)
    image = np.zeros((16, 16, 3), np.uint8)
    image[:] = (number >> 16, number >> 8 & 255, number & 255)
    end = time.monotonic() + rng.uniform(1, 8)
    while time.monotonic() < end:
        with connect(url, compression=None, max_size=None) as socket:
            socket.recv()
            for step in range(rng.randint(1, 100)):
                socket.send(pack({"images": {"front": image}, "state": [0.0], "prompt": "x"}))
                answer = unpack(socket.recv())["actions"][0].tolist()
                if answer != [number, step + 1]:
                    print(
                        f"robot {number}, step {step + 1}: was answered {answer}", file=sys.stderr
                    )
                    sys.exit(3)
                time.sleep(rng.uniform(0, 0.05))


def soak(seconds: float) -> None:
    """Prints and stores what happened."""
    rng = random.Random(0)
    me = psutil.Process(os.getpid())
    clients: list[subprocess.Popen[Any]] = []
    counts = {"joined": 0, "killed": 0, "left": 0, "mixed_up": 0, "failed": 0}
    sizes: list[float] = []
    with running_server(Probe(), ServeConfig(policy="-", port=0, max_batch=8)) as server:
        end = time.monotonic() + seconds
        number = 1
        while time.monotonic() < end or clients:
            if time.monotonic() < end and len(clients) < CLIENTS:
                settings = json.dumps([server.url, number])
                clients.append(subprocess.Popen([sys.executable, str(Path(__file__)), settings]))
                counts["joined"] += 1
                number += 1
            if len(clients) > 2 and rng.random() < 0.3:
                rng.choice(clients).kill()
                counts["killed"] += 1
            time.sleep(1.0)
            for client in [client for client in clients if client.poll() is not None]:
                clients.remove(client)
                names = {0: "left", 3: "mixed_up", -9: "left"}
                counts[names.get(client.returncode, "failed")] += 1
            sizes.append(me.memory_info().rss / 2**20)
        requests = server.service.metrics.value("vla_requests_total", protocol="openpi")
        batches, robots = server.service.metrics.batch_sizes()
        errors = server.service.metrics.value("vla_errors_total", kind="server")
    # the first quarter fills pools and caches
    settled = sizes[len(sizes) // 4 :]
    growth = settled[-1] / settled[0] - 1
    table = Table("", "")
    for name, value in {
        **counts,
        "observations": int(requests),
        "errors of the server": int(errors),
    }.items():
        table.add_row(name, str(value))
    table.add_row("robots in a batch", f"{robots / max(1, batches):.2f}")
    table.add_row("memory", f"{settled[0]:.0f} -> {settled[-1]:.0f} MiB ({growth:+.1%})")
    publish(
        "serve_soak",
        ours=settled[-1],
        theirs=None,
        ratio=None,
        unit="MiB of memory at the end",
        table=table,
        seconds=seconds,
        observations=int(requests),
        server_errors=int(errors),
        memory_growth=round(growth, 4),
        robots_in_a_batch=round(robots / max(1, batches), 2),
        **counts,
    )
    if counts["mixed_up"] or counts["failed"] or errors:
        raise SystemExit(1)


if __name__ == "__main__":
    robot(*json.loads(sys.argv[1]))
