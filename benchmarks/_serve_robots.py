"""Robots that ask a policy server on a fixed schedule: one process of `serve.py`'s clients.

Open loop: every robot has a time for each observation, and what it waits is counted from that time, also when the
answer before came too late for it. Prints one JSON object: seconds of waiting, observations that got no answer, and
the first actions of each robot, which are compared with those of a lone robot.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

import numpy as np
from websockets.asyncio.client import connect

from vla_client.codec import pack, unpack

POOL = 64
"""Different observations of a robot."""


def observations(robot: int, size: int, state_dim: int) -> list[dict[str, Any]]:
    """What a robot sees, by the number of the step modulo `POOL`."""
    found = []
    for step in range(POOL):
        rng = np.random.default_rng((robot, step))
        found.append(
            {
                "images": {"front": rng.integers(0, 256, (size, size, 3), dtype=np.uint8)},
                "state": rng.standard_normal(state_dim).astype(np.float32),
                "prompt": f"do task {robot % 4}",
            }
        )
    return found


async def play(robot: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One robot's run."""
    period = 1 / settings["hz"]
    seen = [pack(o) for o in observations(robot, settings["size"], settings["state_dim"])]
    waits: list[float] = []
    actions: list[list[list[float]]] = []
    async with connect(settings["url"], compression=None, max_size=None) as socket:
        await socket.recv()
        start = settings["start"] + random.Random(robot).random() * period
        last = int((settings["warmup"] + settings["seconds"]) / period)
        for step in range(last):
            due = start + step * period
            await asyncio.sleep(max(0.0, due - time.time()))
            if time.time() > settings["start"] + settings["warmup"] + settings["seconds"]:
                break  # so far behind that the rest of the schedule lies beyond the end
            await socket.send(seen[step % POOL])
            answer = unpack(await socket.recv())
            if due >= settings["start"] + settings["warmup"]:
                waits.append(time.time() - due)
            if step < settings["compared"]:
                actions.append(answer["actions"].tolist())
        else:
            step = last
    measured = int(settings["seconds"] / period)
    return {
        "robot": robot,
        "waits": waits,
        "missing": max(0, measured - len(waits)),
        "actions": actions,
    }


async def main(settings: dict[str, Any]) -> None:
    # all processes begin at the same moment, however long each took to come up
    print("ready", flush=True)
    settings["start"] = float(sys.stdin.readline())
    robots = await asyncio.gather(*(play(robot, settings) for robot in settings["robots"]))
    print(json.dumps(robots))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
