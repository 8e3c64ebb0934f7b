"""The loop on the robot's computer: read, ask, send, at the control rate.

A action dimensions, K actions per chunk, n queued actions.
"""

from __future__ import annotations

import logging
import math
import queue as queues
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Protocol

import numpy as np

from vla_client.chunks import ChunkQueue, LatencyEstimate, Request
from vla_client.client import Client
from vla_client.errors import ClientError, WireError
from vla_client.governor import RUNNING, STOPPED, Governor, steady_clock
from vla_client.governor_config import GovernorConfig

log = logging.getLogger("vla_client.runner")


class Robot(Protocol):
    """What the loop needs of a robot."""

    def read(self) -> dict[str, Any]:
        """The observation: images, state and prompt under the server's names, in arrays that are
        not written again. May raise `ClientError` if a sensor is silent: the step is left out."""

    def send(self, action_A: np.ndarray) -> None:
        """Commands an action float64 (A,)."""


@dataclass
class RunReport:
    """What happened in a run.

    Attributes:
        steps: control steps.
        executed: actions that were sent.
        missed: control steps that were skipped, since the loop was late.
        late: actions that were dropped, since their time had passed.
        latency_s: 95 % of the answers came within this time.
        counts: what the governor counted.
        ended: why the run ended.
        errors: the last error of the server or the connection; empty if there was none.
    """

    steps: int = 0
    executed: int = 0
    missed: int = 0
    late: int = 0
    latency_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    ended: str = ""
    errors: str = ""


class Runner:
    """Runs a policy on a robot, every action through a governor.

    A policy of single actions, or one that has to see every step, is waited for in each step.
    Others are asked while their last chunk is played: as soon as half of it is left, or fewer
    actions than an answer takes.

    Args:
        robot: reads observations, and sends actions.
        client: the connection to the policy.
        config: the governor's limits.
        instruction: sent as `prompt` if the robot's observation has none.
        measured: observation -> positions float (A,) of `absolute` dimensions; needed if there are.
        stop: brings the robot to rest by its own means.
        enable: whether the deadman's switch is pressed.
        wait: whether to wait for each answer; None: as the server's metadata say.
        execute: actions of a chunk that are executed, at most; None: one if the policy has to see
            every step, else all.
        ask_below: part of a chunk that is still queued when the next one is asked for.

    Raises `ClientError` if the policy's actions are not those of `config`.
    """

    def __init__(
        self,
        robot: Robot,
        client: Client,
        config: GovernorConfig,
        *,
        instruction: str = "",
        measured: Callable[[dict[str, Any]], Any] | None = None,
        stop: Callable[[], object] | None = None,
        enable: Callable[[], bool] | None = None,
        wait: bool | None = None,
        execute: int | None = None,
        ask_below: float = 0.5,
        clock: Callable[[], float] = steady_clock,
    ) -> None:
        self.robot = robot
        self.client = client
        self.config = config
        self.instruction = instruction
        self.measured = measured
        self.ask_below = ask_below
        self.clock = clock
        self.queue = ChunkQueue(config.control_hz)
        self.latency = LatencyEstimate(config.control_hz)
        self.governor = Governor(
            config, robot.send, stop=stop, enable=enable, on_clear=self.queue.reset, clock=clock
        )
        said = client.metadata
        every_step = bool(said.get("every_step", False))
        self.wait = every_step or said.get("action_horizon") == 1 if wait is None else wait
        self.execute = (1 if every_step else None) if execute is None else execute
        self.report = RunReport()
        self._horizon = 1
        self._connected = True
        _check_names(said, config)

    def run(
        self,
        max_steps: int | None = None,
        *,
        until: Callable[[], bool] | None = None,
        return_home_s: float | None = None,
    ) -> RunReport:
        """One episode: asks, arms, and steps until `max_steps`, `until()`, or a stop.

        Args:
            max_steps: number of control steps; None: no limit.
            until: asked before each step.
            return_home_s: at the end, positions go back to those of the start over this time.

        Raises `ClientError` if the first answer cannot be had, or the robot may not be armed.
        """
        self.report = RunReport()
        self.client.reset()
        self.queue.reset()
        self._connected = True
        asker = None if self.wait else _Asker(self.client, self.clock)
        with self.governor:
            # nothing moves while the server loads and compiles
            observation = self._observe()
            self._ask_and_wait(observation, self.clock())
            home_A = self._positions(self._observe())
            self.governor.arm(home_A)
            try:
                self.report.ended = self._loop(asker, max_steps, until)
            finally:
                if asker is not None:
                    asker.end()
            if return_home_s is not None and self.governor.status().state == RUNNING:
                self._return_home(home_A, return_home_s)
            self.report.latency_s = self.latency.seconds
            self.report.late = self.queue.dropped_late
            self.report.counts = self.governor.status().counts
        return self.report

    # --- the loop --------------------------------------------------------------------------------

    def _loop(
        self, asker: _Asker | None, max_steps: int | None, until: Callable[[], bool] | None
    ) -> str:
        """Steps at the control rate; returns why it ended."""
        next_s = self.clock()
        while max_steps is None or self.report.steps < max_steps:
            if until is not None and until():
                return "asked to end"
            self._step(asker)
            self.report.steps += 1
            status = self.governor.status()
            if status.state == STOPPED:
                return f"stopped: {status.reason}"
            next_s = self._sleep_until(next_s + self.config.period_s)
        return f"{max_steps} steps"

    def _sleep_until(self, due_s: float) -> float:
        """Waits for a step's time; returns it, or the next one if it is past: none is caught up."""
        late_s = self.clock() - due_s
        if late_s > 0:
            skipped = math.ceil(late_s / self.config.period_s)
            self.report.missed += skipped
            due_s += skipped * self.config.period_s
        time.sleep(max(0.0, due_s - self.clock()))
        return due_s

    def _step(self, asker: _Asker | None) -> None:
        self._watch_connection()
        try:
            observation = self._observe()
        except ClientError as error:  # a camera is silent, and so is the robot
            self._note(error)
            return
        now_s = self.clock()
        if asker is None:
            if self.execute == 1 or not len(self.queue):
                self._tolerating(lambda: self._ask_and_wait(observation, now_s))
        else:
            answer = asker.take()
            if answer is not None:
                self._tolerating(lambda: self._merge(answer))
            if not asker.busy and len(self.queue) <= self._ask_at():
                asker.ask(self.queue.begin(now_s), observation, self._continuation())
        due = self.queue.pop(self.clock())
        if due is not None:
            measured_A = self._positions(observation)
            self.report.executed += self.governor.command(
                due.action_A, measured_A=measured_A, due_s=due.due_s, age_s=due.age_s
            )

    def _watch_connection(self) -> None:
        """Holds as soon as the connection breaks, though there are actions left in the queue."""
        connected = self.client.connected
        if self._connected and not connected:
            self.governor.hold("the connection is lost")
        self._connected = connected

    def _tolerating(self, action: Callable[[], None]) -> None:
        """Keeps an error of server or connection as text: the silence is the governor's affair."""
        try:
            action()
        except ClientError as error:
            self._note(error)

    def _note(self, error: ClientError) -> None:
        log.warning("%s", error)
        self.report.errors = str(error)

    def _observe(self) -> dict[str, Any]:
        observation = self.robot.read()
        if self.instruction:
            observation = {"prompt": self.instruction, **observation}
        return observation

    def _positions(self, observation: dict[str, Any]) -> Any:
        return None if self.measured is None else self.measured(observation)

    # --- asking ----------------------------------------------------------------------------------

    def _ask_at(self) -> int:
        """Queue length at which the next chunk is asked for."""
        return max(int(self.ask_below * self._horizon), self.latency.steps)

    def _continuation(self) -> dict[str, Any]:
        """What a server is given that continues the queued actions."""
        prefix_nA = self.queue.prefix()
        if "prefix" not in self.client.features or not len(prefix_nA):
            return {}
        # the first is executed in this very step, though no latency may have been measured yet
        return {"prefix": prefix_nA, "delay": min(max(1, self.latency.steps), len(prefix_nA))}

    def _ask_and_wait(self, observation: dict[str, Any], now_s: float) -> None:
        request = self.queue.begin(now_s)
        started_s = self.clock()
        result = self.client.infer(observation, step=self.report.steps)
        self._merge(_Answer(request, result, self.clock() - started_s, self.clock()))

    def _merge(self, answer: _Answer) -> None:
        if isinstance(answer.result, Exception):
            raise answer.result
        self.latency.add(answer.latency_s)
        actions_KA = actions_of(answer.result, len(self.config.names))
        self._horizon = len(actions_KA)
        self.queue.merge(answer.request, actions_KA[: self.execute], answer.arrived_s)

    # --- the end ---------------------------------------------------------------------------------

    def _return_home(self, home_A: Any, seconds: float) -> None:
        """Positions back to the start in equal steps; speeds and motions 0, the rest as it is."""
        sent_A, bounds = self.governor.status().sent_A, self.governor.bounds
        absolute = bounds.kinds == "absolute"
        if sent_A is None or not absolute.any():
            return
        keep_A = np.where(bounds.kinds == "keep", sent_A, 0.0)
        way_A = np.where(absolute, np.asarray(home_A, float) - sent_A, 0.0)
        # long enough for the rate, whatever was asked for
        fastest = np.max(np.abs(way_A[absolute]) / bounds.max_step[absolute])
        steps = max(1, math.ceil(seconds * self.config.control_hz), math.ceil(fastest))
        next_s = self.clock()
        for step in range(1, steps + 1):
            target_A = np.where(absolute, sent_A + way_A * step / steps, keep_A)
            self.governor.command(target_A, measured_A=self._positions(self._observe()))
            if self.governor.status().state != RUNNING:
                return
            next_s = self._sleep_until(next_s + self.config.period_s)


def actions_of(result: dict[str, Any], dimensions: int) -> np.ndarray:
    """The chunk float (K, A) of a result; raises `WireError` if it has none of this width."""
    actions = result.get("actions")
    if not isinstance(actions, np.ndarray) or actions.dtype.kind != "f":
        raise WireError("the answer has no array of floats under the key 'actions'")
    chunk_KA = actions[None] if actions.ndim == 1 else actions
    if chunk_KA.ndim != 2 or not len(chunk_KA) or chunk_KA.shape[1] != dimensions:
        raise WireError(
            f"the answer's actions are {list(actions.shape)}, expected (K, {dimensions}): are the "
            "governor's names those of the policy's actions?"
        )
    return chunk_KA


def _check_names(metadata: dict[str, Any], config: GovernorConfig) -> None:
    spec = metadata.get("spec")
    names = spec.get("action_names") if isinstance(spec, dict) else None
    if names is not None and list(names) != list(config.names):
        raise ClientError(
            f"the policy's actions are {', '.join(map(str, names))}, the governor's names "
            f"{', '.join(config.names)}: write them in the policy's order"
        )


@dataclass(frozen=True)
class _Answer:
    """A result, or the error in its place; when it was asked for and how long it took."""

    request: Request
    result: Any
    latency_s: float
    arrived_s: float


class _Asker:
    """One request at a time in a thread, so that the queue is played meanwhile."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self.client = client
        self.clock = clock
        self.busy = False
        self._questions: queues.Queue[Any] = queues.Queue()
        self._answers: queues.Queue[_Answer] = queues.Queue()
        threading.Thread(target=self._work, name="asker", daemon=True).start()

    def ask(self, request: Request, observation: dict[str, Any], more: dict[str, Any]) -> None:
        """Sends an observation; must not be called while `busy`."""
        self.busy = True
        self._questions.put((request, observation, more))

    def take(self) -> _Answer | None:
        """The answer if it is there."""
        try:
            answer = self._answers.get_nowait()
        except queues.Empty:
            return None
        self.busy = False
        return answer

    def end(self) -> None:
        """Lets the thread end after the request that is under way."""
        self._questions.put(None)

    def _work(self) -> None:
        while True:
            question = self._questions.get()
            if question is None:
                return
            request, observation, more = question
            started_s = self.clock()
            try:
                result: Any = self.client.infer(observation, step=request.executed, **more)
            except Exception as error:  # raised again where the answer is taken
                result = error
            now_s = self.clock()
            self._answers.put(_Answer(request, result, now_s - started_s, now_s))
