"""What all connections of a server share: the policy, its dispatcher, and what it says of
itself."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np

from vla.common.cores import usable_cores
from vla.control import BatchedPolicy, EpisodeState
from vla.control.actor_traits import traits_of
from vla.control.inference_mode import inference
from vla.serving.config import ServeConfig
from vla.serving.continuation import Continuation
from vla.serving.dispatch import Answer, Dispatcher, Request
from vla.serving.metrics import Metrics
from vla.serving.observations import ObservationReader, RobotInputs
from vla.serving.record import Recorder, Sent
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
        one_by_one = config.control(whole_chunks=False)
        is_same = one_by_one == self.chunks.settings
        self.actions = self.chunks if is_same else BatchedPolicy(actor, one_by_one)
        threads = config.threads or max(1, usable_cores() // 2)
        self.known_instructions = _instructions(actor)
        text = self.known_instructions[0] if self.known_instructions else "do task 0"
        # before anything that needs to know how long a chunk is
        self.action_horizon = self._warm_up(threads, text)
        period = 1 / actor.spec.control_hz
        # a risk network that looks back misses the steps between, as a policy does
        shield = self.chunks.shield
        looks_back = actor.history > 1 or (shield is not None and shield.model.history > 1)
        self.every_step = looks_back or traits_of(actor).counts_steps
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
            # with `resize` pictures may be larger than the policy's, within bounds
            max_pixels=4 * max(1, sum(h * w for h, w in self.spec.cameras.values())),
        )
        self._recorder: Recorder | None = None

    def start(self) -> None:
        """Opens the dataset that is recorded, and starts the threads.

        Raises UserError if the folder holds something else, and OSError if the disk fails.
        """
        if self.config.record is not None:
            self._recorder = Recorder(
                self.config.record,
                self.spec,
                horizon=self.action_horizon,
                policy=self.config.policy,
                metrics=self.metrics,
            )
        self.dispatcher.start()

    def stop_recording(self) -> None:
        """Writes what there is, once the last answer is sent."""
        if self._recorder is not None:
            self._recorder.close()

    def note_sent(self, request: Request, answer: Answer) -> None:
        """The answer goes to the robots: it is recorded, if anything is. Never waits."""
        if self._recorder is not None:
            # by what is held, before it is packed: that is what waits in memory
            inputs = answer.inputs
            size = inputs.state.nbytes + sum(image.nbytes for image in inputs.images.values())
            self._recorder.add(
                Sent(
                    request.session,
                    answer.episodes,
                    lambda: inputs,
                    answer.actions,
                    request.received,
                    request.step,
                    size,
                )
            )

    def note_played(
        self,
        session: Session,
        episodes: list[int],
        read: Callable[[], RobotInputs],
        actions: np.ndarray,
        received: float,
        size: int,
    ) -> None:
        """The robot of a session is sent the first of these actions (n, A), the rest of an earlier
        chunk, without the policy having looked at its observation. Never waits."""
        if self._recorder is not None:
            self._recorder.add(Sent(session, episodes, read, [actions], received, None, size))

    def end_episodes(self, session: Session) -> None:
        """The episodes of a session's robots are over."""
        if self._recorder is not None:
            self._recorder.end(session)

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
