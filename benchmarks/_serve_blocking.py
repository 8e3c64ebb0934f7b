"""A policy server as openpi's is written: the handler of a connection computes, and everybody waits for it.

python benchmarks/_serve_blocking.py POLICY THREADS
"""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, serve

from vla.control.inference_mode import inference
from vla.models import load_policy
from vla.types import Observation
from vla_client.codec import pack, unpack


async def main(folder: str, threads: int) -> None:
    policy = load_policy(folder)

    async def handler(socket: ServerConnection) -> None:
        await socket.send(pack({}))
        # openpi's policies remember nothing; this one has to, so each connection keeps its own
        memory = None
        async for message in socket:
            seen = unpack(message)
            observation = Observation.from_numpy(
                {camera: image.copy() for camera, image in seen["images"].items()},
                seen["state"],
                seen["prompt"],
            )
            actions, memory = policy.act(observation, memory)
            await socket.send(pack({"actions": actions[0].numpy()}))

    with inference(policy, threads=threads):
        async with serve(handler, "127.0.0.1", 0, compression=None, max_size=None) as server:
            print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
