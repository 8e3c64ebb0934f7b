"""Plays episodes: envs step and render in worker processes while the policy thinks here, in batches.

Episodes are reproducible to the bit. The seed of an episode depends on (task, episode) alone, so every policy
meets the same starts; the batches in which the policy acts depend on the list of episodes alone (`lockstep`), and
an episode that loses its worker is led to where it was by its past actions. So on one machine the records are
the same for any number of workers, local or on a Ray cluster, and whatever was killed meanwhile, provided that

- envs are reproducible, which `check_env` looks at;
- `act` is a function of observation and memory (random numbers of torch's own generators are seeded);
- `batch_size` and `threads` stay as they are, for they decide how sums are rounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vla.common.cores import usable_cores
from vla.config import UserError
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollouts.batched_inference import ActionError, Pilot, inference, thinks_on_cpu
from vla.sim_eval.rollouts.env_pool import Lost, Pool, RolloutError
from vla.sim_eval.rollouts.env_worker import Act, Done, EpisodeRecord, Failed, Job, Ready, Start
from vla.sim_eval.rollouts.launchers import open_pool
from vla.sim_eval.rollouts.lockstep import Group, GroupQueue, Member, make_groups
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.types import Actor

KILLS = 10  # of one episode's worker, by signals from outside; more than that is no accident


def default_workers(actor: object) -> int:
    """One for each core; half of them where a policy needs the other half to think. Two cores are shared."""
    return usable_cores() // 2 if thinks_on_cpu(actor) and usable_cores() >= 4 else usable_cores()


@dataclass
class RolloutStats:
    """What happened on the way. `lost`: task, seed and cause of each loss of a worker."""

    lost: list[str] = field(default_factory=list)

    @property
    def lost_workers(self) -> int:
        """Workers that died or hung and were replaced."""
        return len(self.lost)


def rollout(
    config: EnvConfig,
    jobs: Sequence[Job],
    actor: Actor | None = None,
    settings: RolloutSettings | None = None,
    *,
    on_done: Callable[[EpisodeRecord], None] = lambda record: None,
    stats: RolloutStats | None = None,
    **options: Any,
) -> list[EpisodeRecord]:
    """Plays `jobs` and returns their records in the order of the jobs.

    Args:
        config: the envs.
        jobs: episodes; those with the driver "policy" are played by `actor`.
        actor: the policy; not needed for the drivers "expert" and "random".
        settings: how they are played; default `RolloutSettings()`.
        on_done: called with each record as it comes in.
        stats: filled with what happened on the way.
        options: single settings by name, such as `workers=2`: they take the place of those in `settings`.

    Raises UserError where there is nothing to play or the options contradict the policy, SpecError where the
    env does not fit the policy, RolloutError where an env raises, breaks its contract, or loses its worker too
    often. ActionError where the policy gives no usable actions. What the policy itself raises passes through.
    """
    settings = replace(settings or RolloutSettings(), **options)
    num_envs, batch_size = settings.num_envs, settings.batch_size
    if not jobs:
        raise UserError(
            "no episodes to play: the number of episodes and the list of tasks must not be empty"
        )
    thinks = any(job.driver == "policy" for job in jobs)
    if thinks and actor is None:
        raise ValueError("jobs of the driver 'policy' need an actor")
    pilot = None if actor is None else Pilot(actor, settings)
    if pilot is not None:
        pilot.check(config)
    groups = make_groups(jobs, batch_size if num_envs is None else min(batch_size, num_envs))
    size = max(len(group.jobs) for group in groups)
    # Episodes without a policy run through in their worker: more envs than workers would only cost memory.
    wanted = max(settings.workers, 1)
    if thinks and num_envs:
        wanted = num_envs // size
    elif thinks:
        wanted = max(settings.workers, 2) if settings.workers else 1
    places = min(len(groups), wanted)
    workers = min(settings.workers, places * size)
    threads = settings.threads or max(1, usable_cores() // 2)
    cameras = tuple(config.spec().cameras) if actor is None else tuple(actor.spec.cameras)
    with (
        open_pool(config, cameras, slots=places * size, workers=workers, settings=settings) as pool,
        inference(actor, threads=threads),
    ):
        play = _Play(
            pool,
            pilot,
            places,
            size,
            settings.retries,
            on_done,
            stats if stats is not None else RolloutStats(),
        )
        records = play.run(groups)
    return [records[job.task, job.episode] for job in jobs]


class _Play:
    """Groups on their places: place p owns the slots from p * size on."""

    def __init__(
        self,
        pool: Pool,
        pilot: Pilot | None,
        places: int,
        size: int,
        retries: int,
        on_done: Callable[[EpisodeRecord], None],
        stats: RolloutStats,
    ) -> None:
        self.pool, self.pilot, self.size = pool, pilot, size
        self.retries, self.on_done, self.stats = retries, on_done, stats
        self.groups: list[Group | None] = [None] * places
        self.tasks: list[str | None] = [None] * places
        self.records: dict[tuple[str, int], EpisodeRecord] = {}

    def run(self, groups: Sequence[Group]) -> dict[tuple[str, int], EpisodeRecord]:
        queue, total = GroupQueue(groups), sum(len(group.jobs) for group in groups)
        while len(self.records) < total:
            self._begin(queue)
            for group in self.groups:
                if group is not None and group.ready:
                    self._act(group)
            for answer in self.pool.receive():
                self._take(answer)
        return self.records

    def _begin(self, queue: GroupQueue) -> None:
        """Starts the next groups on the places that are free."""
        for place, group in enumerate(self.groups):
            if group is not None and group.members:
                continue
            running = Counter(
                other.task for other in self.groups if other is not None and other.members
            )
            self.groups[place] = group = queue.next(self.tasks[place], running)
            if group is None:
                continue
            self.tasks[place] = group.task
            for slot, job in enumerate(group.jobs, start=place * self.size):
                group.members[slot] = Member(job)
                self.pool.send(Start(slot, job))

    def _act(self, group: Group) -> None:
        assert self.pilot is not None
        slots = list(group.members)
        robots = [member.robot for member in group.members.values()]
        chosen = self.pilot.act(robots, self.pool.gather(slots), seed=group.next_seed())
        for slot, actions in zip(slots, chosen, strict=True):
            group.members[slot].past.append(actions)
            self.pool.send(Act(slot, actions))

    def _take(self, answer: Ready | Done | Failed | Lost) -> None:
        if isinstance(answer, Lost):
            self._retry(answer)
            return
        members = self._members(answer.slot)
        member = members[answer.slot]
        if isinstance(answer, Failed):
            raise RolloutError(f"{_named(member.job)}: {answer.reason}")
        if isinstance(answer, Ready):
            robot = member.robot
            robot.state, robot.instruction, robot.reward = (
                answer.state,
                answer.instruction,
                answer.reward,
            )
            return
        del members[answer.slot]
        self.records[answer.record.task, answer.record.episode] = answer.record
        self.on_done(answer.record)

    def _retry(self, lost: Lost) -> None:
        """Leads the episodes of a lost worker to where they were. Raises where one has cost too many workers."""
        culprit = self._members(lost.working_on)[lost.working_on]
        culprit.kills += lost.from_outside
        culprit.deaths += not lost.from_outside
        what = f"{_named(culprit.job)}: the worker process {lost.reason}"
        if culprit.deaths > self.retries or culprit.kills > KILLS:
            raise RolloutError(
                f"{what}; it is the {_ordinal(culprit.deaths + culprit.kills)} that this episode has lost"
            )
        self.stats.lost.append(what)
        for slot in lost.slots:
            if (member := self._members(slot).get(slot)) is not None:
                member.robot.state = None
                past = np.concatenate(member.past) if member.past else None
                self.pool.send(
                    Start(slot, member.job, past, len(member.past[-1]) if member.past else 0)
                )

    def _members(self, slot: int) -> dict[int, Member]:
        group = self.groups[slot // self.size]
        return {} if group is None else group.members


def _named(job: Job) -> str:
    return f"task {job.task!r}, seed {job.seed}"


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


__all__ = [
    "ActionError",
    "RolloutError",
    "RolloutStats",
    "default_workers",
    "rollout",
]
