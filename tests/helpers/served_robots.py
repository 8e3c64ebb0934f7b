"""Servers on loopback for tests: a tiny RT-1 that looks back over six steps, and a client of openpi's protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from websockets.sync.client import ClientConnection, connect

from vla.control.inference_mode import inference
from vla.models import RT1, RT1Config
from vla.serving import PolicyServer
from vla.types import Observation, Spec
from vla_client.codec import pack, unpack

SPEC = Spec(
    cameras={"front": (32, 48)},
    state_names=("x", "y"),
    action_names=("dx", "dy", "grip"),
    action_low=(-1.0, -2.0, 0.0),
    action_high=(1.0, 2.0, 0.5),
    control_hz=10,
)
TINY = {
    "trunk": "test_efficientnet",
    "stride": 16,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "key_dim": 16,
    "history": 6,
    "language_dim": 24,
    "tokens_per_image": 3,
    "state_token": True,
}


def tiny_policy(seed: int = 0, spec: Spec = SPEC, **changes: Any) -> RT1:
    """A policy whose actions depend on pictures, state, instruction and past steps."""
    torch.manual_seed(seed)
    policy = RT1Config(**{**TINY, **changes}).build(spec)
    policy.language.preload({f"do task {i}": torch.randn(384) / 20 for i in range(4)})
    # what is zero at initialisation would make all actions alike
    for film in (policy.vision.trunk.film, policy.vision.trunk.film_out):
        torch.nn.init.normal_(film.parameters_of.weight, std=0.2)
    torch.nn.init.normal_(policy.head.weight)
    return policy.eval()


class Robot:
    """A client of openpi's protocol, written from its description alone."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.metadata = unpack(socket.recv(timeout=10))

    def send(self, observation: dict[str, Any]) -> None:
        self.socket.send(pack(observation))

    def receive(self) -> dict[str, Any]:
        """The answer; raises RuntimeError with the text of an error."""
        answer = self.socket.recv(timeout=20)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return unpack(answer)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.send(observation)
        return self.receive()


@contextlib.contextmanager
def connected(server: PolicyServer, path: str = "", **options: Any) -> Iterator[Robot]:
    with connect(server.url + path, compression=None, max_size=None, **options) as socket:
        yield Robot(socket)


def observation(step: int, robot: int = 0, instruction: str = "do task 0") -> dict[str, Any]:
    """What a robot sees at a step: noise that only these two numbers decide."""
    rng = np.random.default_rng((robot, step))
    return {
        "observation/front": rng.integers(0, 256, (32, 48, 3), dtype=np.uint8),
        "observation/state": rng.standard_normal(2).astype(np.float32),
        "prompt": instruction,
    }


def lone(policy: Any, observations: list[dict[str, Any]]) -> list[np.ndarray]:
    """The chunks (K, A) of one robot that acts by itself; a new instruction starts an episode."""
    memory = None
    chunks = []
    before = None
    with inference(policy, threads=1):
        for seen in observations:
            if seen.get("vla/reset") or seen["prompt"] != before:
                memory = None
            before = seen["prompt"]
            images = {"front": seen["observation/front"]}
            now = Observation.from_numpy(images, seen["observation/state"], seen["prompt"])
            actions, memory = policy.act(now, memory)
            chunks.append(actions[0].numpy())
    return chunks
