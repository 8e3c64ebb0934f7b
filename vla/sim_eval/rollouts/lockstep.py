"""Which episodes share the policy's batches, such that no clock has a say in it.

Sums are rounded, and how they are rounded depends on the size of a batch: a policy that meets its robots in
batches as they happen to arrive gives actions that differ in their last bits from run to run, and contacts
make that a different episode. So episodes of one task form *groups* that are fixed beforehand. A group acts in
lockstep: its policy call comes when all its running episodes wait for it. Then the batch of every call is a
function of the group and of its past alone: of no worker, no launcher, no other group, no lost worker.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla.sim_eval.rollouts.batched_inference import Robot
from vla.sim_eval.rollouts.env_worker import Job


@dataclass
class Member:
    """A running episode of a group.

    Attributes:
        past: the actions sent so far, chunk by chunk: what it takes to lead a new env to the same state.
        deaths, kills: workers lost over this episode, by their own doing and by a signal from outside.
    """

    job: Job
    robot: Robot = field(default_factory=Robot)
    past: list[np.ndarray] = field(default_factory=list)
    deaths: int = 0
    kills: int = 0


@dataclass
class Group:
    """Episodes of one task that advance together. `members`: slot -> episode, of those that run."""

    jobs: tuple[Job, ...]
    members: dict[int, Member] = field(default_factory=dict)
    calls: int = 0

    @property
    def task(self) -> str:
        return self.jobs[0].task

    @property
    def ready(self) -> bool:
        """Whether every running episode waits for an action."""
        return bool(self.members) and all(
            member.robot.state is not None for member in self.members.values()
        )

    def next_seed(self) -> int:
        """For whatever the policy draws at random in its next call."""
        self.calls += 1
        return (self.jobs[0].seed * 1_000_003 + self.calls) % 2**63


def make_groups(jobs: Iterable[Job], size: int) -> list[Group]:
    """Every `size` consecutive episodes of a task that the policy plays, and each other episode alone."""
    groups: list[Group] = []
    played: dict[str, list[Job]] = {}
    for job in jobs:
        if job.driver == "policy":
            played.setdefault(job.task, []).append(job)
        else:
            groups.append(Group((job,)))
    for same_task in played.values():
        groups += [Group(tuple(same_task[i : i + size])) for i in range(0, len(same_task), size)]
    return groups


class GroupQueue:
    """Groups that wait, handed out so that a place keeps its task: building envs costs seconds."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._waiting: dict[str, deque[Group]] = {}
        for group in groups:
            self._waiting.setdefault(group.task, deque()).append(group)

    def next(self, task: str | None, running: Counter[str]) -> Group | None:
        """The next group for a place whose envs are of `task`, given how many places play each task.

        A place whose own task is finished goes where most groups wait for each place, if enough wait to be worth
        other envs.
        """
        if task is not None and self._waiting.get(task):
            return self._waiting[task].popleft()
        worth = [
            name
            for name, groups in self._waiting.items()
            if groups and len(groups) >= 2 * running[name]
        ]
        if not worth:
            return None
        return self._waiting[
            max(worth, key=lambda t: len(self._waiting[t]) / (1 + running[t]))
        ].popleft()
