"""One robot's plan under real-time chunking: what it executes until its next observation.

K actions per chunk, A action dimensions, n actions of a plan, s actions per request, d of delay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla.config import UserError
from vla.control.realtime import CONTINUING, RealtimeSettings, averaged, blended


@dataclass(frozen=True)
class Plan:
    """What a robot has before its next chunk is there. A value, like the policy's memory.

    Attributes:
        rest: (n, A), what it executes from the next observation on unless a new chunk comes.
        chunks: (n, A) each, what is left of the chunks that still speak, the oldest first; of
            ensemble alone.
        last: (A,), what it executed last.
    """

    rest: np.ndarray
    chunks: tuple[np.ndarray, ...]
    last: np.ndarray


@dataclass(frozen=True)
class Queued:
    """What a robot says that it still executes while it waits for a chunk.

    Beside a `Plan` that control keeps itself, this is a robot's own account of one observation,
    and robots of one batch may differ in all of it.

    Attributes:
        rest: (n, A), the actions in its queue, at least one; the first is executed at the
            observation's step.
        chunk: K, at least n.
        settings: d, at most n, and the method: any but `ensemble` and `hold`, for which the robot
            would have to tell more.
    """

    rest: np.ndarray
    chunk: int
    settings: RealtimeSettings

    @property
    def plan(self) -> Plan:
        """The same as a plan."""
        return Plan(self.rest, (), self.rest[-1])

    @property
    def every(self) -> int:
        """s: actions of the chunk before that the queue no longer has."""
        return self.chunk - len(self.rest)

    @property
    def call(self) -> tuple[str, int, int] | tuple[()]:
        """Equal for robots whose chunks can be chosen in one call of the policy; () if the policy
        chooses as for robots without a queue."""
        if self.settings.method not in CONTINUING:
            return ()
        return self.settings.method, len(self.rest), self.settings.delay

    def followed_by(self, chunk_KA: np.ndarray) -> np.ndarray:
        """The chunk (K, A) as the robot is given it: it begins with the d actions under way."""
        return merged(self.plan, chunk_KA, self.settings)


def next_actions(
    plan: Plan | None,
    chunk_KA: np.ndarray,
    settings: RealtimeSettings,
    every: int,
    null_A: np.ndarray,
) -> tuple[np.ndarray, Plan]:
    """The actions (n, A) until the next observation, and the plan that is left then.

    Args:
        plan: None at an episode's start: the robot stands, nothing is under way, and the episode
            begins with the first chunk.
        chunk_KA: the answer to the present observation.
        settings: d and the method.
        every: s.
        null_A: the action that stands still, if actions are changes.

    Raises UserError if the chunk ends before the next one is there.
    """
    check_lengths(len(chunk_KA), settings, every)
    if plan is None or settings.method == "hold":
        merged_KA = chunk_KA
    else:
        merged_KA = merged(plan, chunk_KA, settings)
    executed_nA = merged_KA[:every]
    if plan is not None and settings.method == "hold":
        still_A = null_A if settings.action_kind == "delta" else plan.last
        still_dA = np.repeat(still_A[None], settings.delay, axis=0)
        executed_nA = np.concatenate([still_dA, executed_nA])
    chunks: tuple[np.ndarray, ...] = ()
    if settings.method == "ensemble":
        before = () if plan is None else plan.chunks
        left = [chunk[every:] for chunk in (*before, chunk_KA)]
        chunks = tuple(chunk for chunk in left if len(chunk))
    return executed_nA, Plan(merged_KA[every:], chunks, executed_nA[-1])


def merged(plan: Plan, chunk_KA: np.ndarray, settings: RealtimeSettings) -> np.ndarray:
    """The plan (K, A): d actions that are executed whatever the chunk says, then the method's."""
    d = settings.delay
    merged_KA = chunk_KA
    if settings.method == "blend":
        merged_KA = blended(plan.rest, chunk_KA)
    elif settings.method == "ensemble":
        merged_KA = averaged((*plan.chunks, chunk_KA))
    # executed while the request was out, so the chunk comes too late for them
    return np.concatenate([plan.rest[:d], merged_KA[d:]])


def check_lengths(chunk: int, settings: RealtimeSettings, every: int) -> None:
    """Raises UserError unless d <= s <= K - d; of hold, s <= K."""
    d = settings.delay
    if settings.method == "hold":
        if every > chunk:
            raise UserError(
                f"replan_every is {every}, but the policy plans {chunk} steps: "
                f"set replan_every={chunk}"
            )
        return
    if chunk < 2 * d:
        raise UserError(
            f"the latency is {d} control steps, and chunks of {chunk} actions end before the next "
            f"one is there: set method=hold, or train the policy with policy.chunk={2 * d} or more"
        )
    if not d <= every <= chunk - d:
        best = d if every < d else chunk - d
        raise UserError(
            f"replan_every is {every}, but with a latency of {d} control steps and chunks of "
            f"{chunk} actions it must be {d} to {chunk - d}: set replan_every={max(best, 1)}"
        )


__all__ = ["Plan", "Queued", "check_lengths", "merged", "next_actions"]
