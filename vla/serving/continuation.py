"""Chunks that go on from what a robot still executes: `vla/prefix` and `vla/delay`.

B robots, K actions per chunk, A action dimensions, n actions in a robot's queue, d of delay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.control.realtime import Method, RealtimeSettings
from vla.control.realtime_methods import (
    WITHOUT_DISTRIBUTION,
    Abilities,
    abilities_of,
    can_choose,
    chosen_method,
)
from vla.control.realtime_plan import Queued
from vla.serving.config import ServeConfig
from vla.serving.observations import RobotInputs, numbers
from vla.types import Actor, Spec

PREFIX, DELAY = "vla/prefix", "vla/delay"
# an ensemble needs all chunks before, and a robot that stands has no queue
NOT_SERVED: tuple[Method, ...] = ("ensemble", "hold")


class Continuation:
    """How the chunks of a server go on from a robot's queue.

    Args:
        actor: the policy.
        config: with the method.
        horizon: actions of an answer.
        every_step: whether the policy has to see every step of an episode.
        text: an instruction that the policy knows.

    Attributes:
        why_not: why no chunk goes on from another one; empty if they do.

    Raises UserError if the config names a method that the policy cannot follow.
    """

    def __init__(
        self,
        actor: Actor,
        config: ServeConfig,
        *,
        horizon: int,
        every_step: bool,
        text: str,
    ) -> None:
        self.spec: Spec = actor.spec
        self.horizon = horizon
        self._config = config
        self.why_not = _why_not(config, horizon, every_step=every_step)
        if self.why_not:
            if config.method != "auto":
                raise UserError(f"method is {config.method!r}, but {self.why_not}: drop method")
            return
        self._abilities = _abilities(actor, horizon, text)
        chosen_method(config.method, self._abilities, 0)

    def read(self, options: Mapping[str, Any], inputs: RobotInputs) -> list[Queued | None]:
        """What each of the B robots still executes; None for nothing.

        Args:
            options: the optional keys of the observation.
            inputs: the rest of it.

        Raises UserError naming the key that is wrong.
        """
        B = inputs.batch_size
        prefix, delay = options.get(PREFIX), options.get(DELAY)
        if prefix is None and delay is None:
            return [None] * B
        if self.why_not:
            key = DELAY if prefix is None else PREFIX
            raise UserError(
                f"{key}: no chunk is continued here, since {self.why_not}; leave it out"
            )
        if prefix is None:
            raise UserError(
                f"{DELAY}: comes without {PREFIX}; send the actions in the robot's queue too, or "
                "neither"
            )
        queues = self._queues(prefix, B, batched=inputs.batched)
        return [self._queued(*row) for row in zip(queues, _delays(delay, B), strict=True)]

    def _queues(self, prefix: Any, B: int, *, batched: bool) -> list[np.ndarray]:
        """float32 (n, A) of each robot."""
        if not batched:
            return [self._queue(PREFIX, prefix)]
        # one array if all queues are of one length, a list of arrays otherwise
        is_rows = isinstance(prefix, list) or (isinstance(prefix, np.ndarray) and prefix.ndim == 3)
        if not is_rows or len(prefix) != B:
            raise UserError(
                f"{PREFIX}: expected an array (n, {self.spec.action_dim}) for each of the {B} "
                "robots; send a list of them, empty for a robot without a queue"
            )
        return [self._queue(f"{PREFIX}, robot {row}", queue) for row, queue in enumerate(prefix)]

    def _queue(self, key: str, value: Any) -> np.ndarray:
        queue_nA = numbers(key, value)
        A = self.spec.action_dim
        if not queue_nA.size:
            return np.zeros((0, A), np.float32)
        if queue_nA.ndim != 2 or queue_nA.shape[1] != A:
            raise UserError(
                f"{key}: has shape {queue_nA.shape}, expected (n, {A}): "
                f"{', '.join(self.spec.action_names)}, in this order"
            )
        if len(queue_nA) > self.horizon:
            raise UserError(
                f"{key}: has {len(queue_nA)} actions, an answer has {self.horizon}; send what is "
                "left of the last one"
            )
        low_A = np.asarray(self.spec.action_low, np.float32)
        high_A = np.asarray(self.spec.action_high, np.float32)
        # NaN is not within limits either
        wrong_nA = ~((queue_nA >= low_A) & (queue_nA <= high_A))
        if wrong_nA.any():
            step, dim = (int(place) for place in np.argwhere(wrong_nA)[0])
            raise UserError(
                f"{key}: action {step} has {self.spec.action_names[dim]}="
                f"{queue_nA[step, dim]:g}, outside the policy's {low_A[dim]:g} to "
                f"{high_A[dim]:g}; send the actions as the server gave them"
            )
        return queue_nA

    def _queued(self, queue_nA: np.ndarray, delay: int) -> Queued | None:
        n = len(queue_nA)
        if not 0 <= delay <= n:
            raise UserError(
                f"{DELAY}: is {delay}, and {PREFIX} has {n} actions; send how many of these will "
                f"be executed before the answer is there, 0 to {n}"
            )
        if not n:
            return None
        try:
            method = chosen_method(self._config.method, self._abilities, delay)
        except UserError as error:
            raise UserError(f"{DELAY}: {error}") from error
        settings = RealtimeSettings(
            delay=delay,
            method=method,
            schedule=self._config.schedule,
            draws=self._config.draws,
        )
        return Queued(queue_nA, self._abilities.chunk, settings)


def _why_not(config: ServeConfig, horizon: int, *, every_step: bool) -> str:
    if config.ensemble is not None:
        return "ensemble gives one action for each observation"
    if config.shield is not None:
        return "shield judges chunks that the policy draws"
    if every_step:
        return "the policy must see every step of an episode, and is waited for"
    return "the policy gives one action at a time" if horizon == 1 else ""


def _abilities(actor: Actor, horizon: int, text: str) -> Abilities:
    """What the policy can, of the methods that are served."""
    if can_choose(actor):
        found = abilities_of(actor, replace(actor.spec.fake_observation(1), instruction=[text]))
    else:
        found = Abilities(horizon, dict.fromkeys(WITHOUT_DISTRIBUTION, horizon))
    methods = {name: most for name, most in found.methods.items() if name not in NOT_SERVED}
    return Abilities(found.chunk, methods)


def _delays(value: Any, B: int) -> list[int]:
    """d of each robot. Raises UserError if they are no whole numbers."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None:
        value = 0
    delays = value if isinstance(value, list) else [value] * B
    # truth values are integers to Python
    if len(delays) != B or not all(type(delay) is int for delay in delays):
        raise UserError(f"{DELAY}: expected a whole number of steps, or one for each of {B} robots")
    return delays


__all__ = ["DELAY", "PREFIX", "Continuation"]
