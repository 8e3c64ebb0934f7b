"""Plays episodes: envs step and render in worker processes while the policy thinks here, in batches.

As soon as half of the running envs wait for an action, the policy acts on all that wait; the others step
and render meanwhile. An env whose episode is over gets the next one of its task, so that few envs are
built. The seed of an episode depends on (task, episode) alone: every policy meets the same starts, and
neither the number of workers nor the order of events changes an episode (but for the rounding of batched
arithmetic).
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vla.config import UserError
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.pilot import ActionError, Pilot, Robot, inference, thinks_on_cpu
from vla.sim_eval.rollout_pool import Lost, Pool, RolloutError
from vla.sim_eval.rollout_worker import Act, Done, EpisodeRecord, Failed, Job, Ready, Start
from vla.types import Actor


class JobQueue:
    """Episodes that wait, handed out so that a slot keeps its task: building an env costs seconds."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._waiting: dict[str, deque[Job]] = {}
        for job in jobs:
            self._waiting.setdefault(job.task, deque()).append(job)

    def next(self, task: str | None, running: Counter[str]) -> Job | None:
        """The next job for a slot whose env is of `task`, given how many slots play each task.

        A slot whose own task is finished goes where most episodes wait for each slot, if enough wait to be worth
        another env.
        """
        if task is not None and self._waiting.get(task):
            return self._waiting[task].popleft()
        worth = [name for name, jobs in self._waiting.items() if jobs and len(jobs) >= 2 * running[name]]
        if not worth:
            return None
        return self._waiting[max(worth, key=lambda t: len(self._waiting[t]) / (1 + running[t]))].popleft()

    def put_back(self, job: Job) -> None:
        self._waiting[job.task].appendleft(job)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(actor: object) -> int:
    """One for each core; half of them where a policy needs the other half to think. Two cores are shared."""
    return cores() // 2 if thinks_on_cpu(actor) and cores() >= 4 else cores()


@dataclass
class _Running:
    job: Job
    robot: Robot


def rollout(
    config: EnvConfig,
    jobs: Sequence[Job],
    actor: Actor | None = None,
    *,
    workers: int = 0,
    num_envs: int | None = None,
    replan_every: int = 1,
    ensemble: float | None = None,
    timeout: float = 300.0,
    on_done: Callable[[EpisodeRecord], None] = lambda record: None,
) -> list[EpisodeRecord]:
    """Plays `jobs` and returns their records in the order of the jobs.

    Args:
        config: the envs.
        jobs: episodes; those with the driver "parent" are played by `actor`.
        actor: the policy; not needed for the drivers "expert" and "random".
        workers: processes that hold the envs; 0 keeps the envs in this process.
        num_envs: episodes that run at the same time, in all; default four for each worker.
        replan_every: steps of a chunk that are executed before the next `act`.
        ensemble: decay of temporal ensembling over chunks, None for none.
        timeout: seconds without an answer after which a worker counts as hung. A worker that hangs or dies is
            replaced and its episodes are played again, once.
        on_done: called with each record as it comes in.

    Raises UserError where there is nothing to play or the options contradict the policy, SpecError where the
    env does not fit the policy, RolloutError where an env raises or a worker dies or hangs twice in one
    episode. ActionError where the policy gives no usable actions. What the
    policy itself raises passes through.
    """
    if not jobs:
        raise UserError("no episodes to play: the number of episodes and the list of tasks must not be empty")
    if any(job.driver == "parent" for job in jobs) and actor is None:
        raise ValueError("jobs of the driver 'parent' need an actor")
    pilot = None if actor is None else Pilot(actor, replan_every=replan_every, ensemble=ensemble)
    if pilot is not None:
        pilot.check(config)
    # Episodes without a policy run through in their worker: more envs than workers would only cost memory.
    envs = max(workers, 1) if all(job.driver != "parent" for job in jobs) else num_envs or 4 * max(workers, 1)
    slots = min(len(jobs), envs)
    cameras = tuple(config.spec().cameras) if actor is None else tuple(actor.spec.cameras)
    workers = min(workers, slots)
    threads = max(1, cores() - workers) if workers else None
    with (
        Pool(config, cameras, slots=slots, workers=workers, timeout=timeout) as pool,
        inference(actor, threads=threads),
    ):
        records = _play(pool, JobQueue(jobs), len(jobs), pilot, on_done)
    return [records[job.task, job.episode] for job in jobs]


def _play(
    pool: Pool, queue: JobQueue, total: int, pilot: Pilot | None, on_done: Callable[[EpisodeRecord], None]
) -> dict[tuple[str, int], EpisodeRecord]:
    records: dict[tuple[str, int], EpisodeRecord] = {}
    running: dict[int, _Running] = {}  # slot -> episode
    tasks: dict[int, str] = {}  # slot -> task of its env
    lost_before: set[tuple[str, int]] = set()
    while len(records) < total:
        for slot in pool.idle_slots(running):
            job = queue.next(tasks.get(slot), Counter(r.job.task for r in running.values()))
            if job is None:
                continue
            running[slot], tasks[slot] = _Running(job, Robot()), job.task
            pool.send(Start(slot, job))
        waiting = [slot for slot, r in running.items() if r.robot.state is not None]
        if pilot is not None and waiting and 2 * len(waiting) >= len(running):
            chosen = pilot.act([running[slot].robot for slot in waiting], pool.gather(waiting))
            for slot, actions in zip(waiting, chosen, strict=True):
                pool.send(Act(slot, actions))
        for answer in pool.receive():
            if isinstance(answer, Lost):
                _requeue(answer, running, tasks, queue, lost_before)
            elif isinstance(answer, Failed):
                job = running[answer.slot].job
                raise RolloutError(f"task {job.task!r}, seed {job.seed}: the env raised\n{answer.traceback}")
            elif isinstance(answer, Ready):
                robot = running[answer.slot].robot
                robot.state, robot.instruction = answer.state, answer.instruction
            elif isinstance(answer, Done):
                record = answer.record
                del running[answer.slot]
                records[record.task, record.episode] = record
                on_done(record)
    return records


def _requeue(
    lost: Lost,
    running: dict[int, _Running],
    tasks: dict[int, str],
    queue: JobQueue,
    lost_before: set[tuple[str, int]],
) -> None:
    """Puts the episodes of a dead worker back; raises where the one in work has killed a worker before."""
    culprit = running[lost.working_on].job
    if (culprit.task, culprit.episode) in lost_before:
        raise RolloutError(
            f"task {culprit.task!r}, seed {culprit.seed}: the worker process {lost.reason}, twice in this episode"
        )
    lost_before.add((culprit.task, culprit.episode))
    for slot in lost.slots:
        tasks.pop(slot, None)
        if slot in running:
            queue.put_back(running.pop(slot).job)


__all__ = ["ActionError", "JobQueue", "RolloutError", "cores", "default_workers", "rollout"]
