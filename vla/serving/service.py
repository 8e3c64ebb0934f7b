"""What all connections of a server share: the policy, its dispatcher, and what it says of
itself."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np

from vla.common.cores import usable_cores
from vla.control import BatchedPolicy, EpisodeState
from vla.control.actor_traits import traits_of
from vla.control.inference_mode import inference
from vla.serving.config import ServeConfig
from vla.serving.continuation import Continuation
from vla.serving.dispatch import Dispatcher
from vla.serving.metrics import Metrics
from vla.serving.observations import ObservationReader
from vla.serving.session import Session, SessionRules
from vla.types import Actor
from vla_client.codec import Limits

FEATURES = ("reset", "step", "session", "batch", "max_age")
"""Optional keys of observations, `vla/...`, that are understood whatever the policy."""
MIB = 2**20


class Service:
    """A policy and all that its connections share.

    Args:
        actor: the policy, where it is to compute.
        config: how it is served.

    Raises UserError if the policy cannot be served so.
    """

    def __init__(self, actor: Actor, config: ServeConfig) -> None:
        self.actor = actor
        self.config = config
        self.spec = actor.spec
        self.metrics = Metrics()
        self.reader = ObservationReader(
            actor.spec,
            keys=config.keys,
            resize=config.resize,
            default_prompt=config.default_prompt,
        )
        # whole chunks for robots that play them, single actions for harnesses that ask for these
        self.chunks = BatchedPolicy(actor, config.control(whole_chunks=True))
        self.actions = BatchedPolicy(actor, config.control(whole_chunks=False))
        threads = config.threads or max(1, usable_cores() // 2)
        self.known_instructions = _instructions(actor)
        text = self.known_instructions[0] if self.known_instructions else "do task 0"
        self.action_horizon = self._warm_up(threads, text)
        period = 1 / actor.spec.control_hz
        self.every_step = actor.history > 1 or traits_of(actor).counts_steps
        self.continuation = Continuation(
            actor,
            config,
            horizon=self.action_horizon,
            every_step=self.every_step,
            text=text,
        )
        self.session_rules = SessionRules(
            period=period,
            every_step=self.every_step,
            idle_reset_s=config.idle_reset_s,
            metrics=self.metrics,
        )
        self.dispatcher = Dispatcher(
            actor,
            max_batch=config.max_batch,
            max_wait=config.max_wait_ms / 1000,
            threads=threads,
            period=period,
            metrics=self.metrics,
        )
        self.limits = Limits(
            max_bytes=self.max_message_bytes,
            max_pixels=4 * max(1, sum(h * w for h, w in self.spec.cameras.values())),
        )

    @property
    def max_message_bytes(self) -> int:
        """Of one message."""
        if self.config.max_message_bytes is not None:
            return self.config.max_message_bytes
        return 4 * sum(3 * h * w for h, w in self.spec.cameras.values()) + MIB

    @property
    def max_rate(self) -> float:
        """Observations a second of a client that does not wait for answers."""
        return self.config.max_rate or 4 * self.spec.control_hz

    def new_session(self, name: str = "") -> Session:
        """A session whose robots have seen nothing yet."""
        return Session(self.session_rules, name)

    def metadata(self) -> dict[str, Any]:
        """What a client may want to know of the policy; plain types."""
        return {
            "server": f"vla {importlib.metadata.version('vla')}",
            "spec": self.spec.to_dict(),
            "action_horizon": self.action_horizon,
            "history": self.actor.history,
            "control_hz": self.spec.control_hz,
            "every_step": self.every_step,
            "features": [*FEATURES, *([] if self.continuation.why_not else ["prefix"])],
            "observation_keys": self.reader.names(),
            "instructions": self.known_instructions,
        }

    def _warm_up(self, threads: int, text: str) -> int:
        """Acts twice in what no robot sees; returns the actions of a chunk, K.

        The first calls of a network are slow, and an actor need not say how long its chunks are.
        """
        with inference(self.actor, threads=threads):
            robot = EpisodeState()
            for _ in range(2):
                robot.robot_state = np.zeros(self.spec.state_dim, np.float32)
                robot.instruction = text
                images = {
                    camera: np.zeros((1, h, w, 3), np.uint8)
                    for camera, (h, w) in self.spec.cameras.items()
                }
                actions = self.chunks.act([robot], images)[0]
        return len(actions)


def _instructions(actor: Actor) -> list[str]:
    """The instructions that a policy knows without its text encoder."""
    exported: tuple[str, ...] = getattr(actor, "instructions", ())
    if exported:
        return list(exported)[:1000]
    language = getattr(actor, "language", None)
    return list(language.cached())[:1000] if language is not None else []
