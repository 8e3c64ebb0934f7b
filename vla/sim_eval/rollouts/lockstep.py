"""Which episodes share the policy's batches, such that no clock has a say in it.

Sums are rounded, and how they are rounded depends on the size of a batch: a policy that meets its
robots in batches as they happen to arrive gives actions that differ in their last bits from run to
run, and contacts make that a different episode. So episodes of one task form *episode batches* that
are fixed beforehand. A batch acts in lockstep: its policy call comes when all its running episodes
wait for it. Then what every call sees is a function of the episode batch and of its past alone: of
no worker, no launcher, no other batch, no lost worker.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vla.control.batched_inference import EpisodeState
from vla.sim_eval.rollouts.jobs import Decision, Job


@dataclass
class Episode:
    """A running episode of a batch.

    Attributes:
        past: what was chosen so far: it leads a new env to the same state, where the expert takes
            over at the same steps.
        deaths, kills: workers lost over this episode, by their own doing and by a signal from
            outside.
    """

    job: Job
    state: EpisodeState = field(default_factory=EpisodeState)
    past: list[Decision] = field(default_factory=list)
    deaths: int = 0
    kills: int = 0


@dataclass
class EpisodeBatch:
    """Episodes of one task that advance together.

    Attributes:
        jobs: all of them, from the start.
        running: slot -> episode, of those that are not over.
        calls: how often the policy has acted in them.
    """

    jobs: tuple[Job, ...]
    running: dict[int, Episode] = field(default_factory=dict)
    calls: int = 0

    @property
    def task(self) -> str:
        return self.jobs[0].task

    @property
    def ready(self) -> bool:
        """Whether every running episode waits for an action."""
        if not self.running:
            return False
        return all(episode.state.waits for episode in self.running.values())

    def next_seed(self) -> int:
        """For whatever the policy draws at random in its next call."""
        self.calls += 1
        # of the first job alone: what is drawn must not depend on which episodes still run
        first = self.jobs[0]
        # the primes keep the calls of neighbouring seeds and draws apart; torch takes seeds below
        # 2**63
        return (first.seed * 1_000_003 + first.draw * 2_147_483_659 + self.calls) % 2**63


def make_batches(jobs: Iterable[Job], size: int) -> list[EpisodeBatch]:
    """Every `size` consecutive episodes of a task that the policy plays; others one by one."""
    batches: list[EpisodeBatch] = []
    of_task: dict[str, list[Job]] = {}
    for job in jobs:
        if job.driver == "policy":
            of_task.setdefault(job.task, []).append(job)
        else:
            # a baseline acts in the worker, where its episode runs through without a policy's batch
            batches.append(EpisodeBatch((job,)))
    for same_task in of_task.values():
        for start in range(0, len(same_task), size):
            batches.append(EpisodeBatch(tuple(same_task[start : start + size])))
    return batches


class BatchQueue:
    """Batches that wait, handed out so that envs keep their task: building them costs seconds."""

    def __init__(self, batches: Sequence[EpisodeBatch]) -> None:
        self._waiting: dict[str, deque[EpisodeBatch]] = {}
        for batch in batches:
            self._waiting.setdefault(batch.task, deque()).append(batch)

    def next(self, task: str | None, running: Counter[str]) -> EpisodeBatch | None:
        """The next batch for envs of `task`; `running` counts the batches that are played, by task.

        Envs whose own task is finished go where most batches wait for each that is played, if
        enough wait to be worth building other envs.
        """
        if task is not None and self._waiting.get(task):
            return self._waiting[task].popleft()
        worth_it = [
            name
            for name, batches in self._waiting.items()
            # with fewer than two for each, those that play may finish before envs are built
            if batches and len(batches) >= 2 * running[name]
        ]
        if not worth_it:
            return None

        def waiting_for_each(name: str) -> float:
            return len(self._waiting[name]) / (1 + running[name])

        longest = max(worth_it, key=waiting_for_each)
        return self._waiting[longest].popleft()
