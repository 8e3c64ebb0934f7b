"""Plays episodes: envs step and render in worker processes while the policy thinks here, in batches.

As soon as half of the running envs wait for an action, the policy acts on all that wait; the others step
and render meanwhile. An env whose episode is over gets the next one of its task, so that few envs are
built. The seed of an episode depends on (task, episode) alone: every policy meets the same starts, and
neither the number of workers nor the order of events changes an episode (but for the rounding of batched
arithmetic).
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vla.config import UserError
from vla.sim_eval.ensemble import TemporalEnsemble
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollout_pool import Lost, Pool, RolloutError
from vla.sim_eval.rollout_worker import Act, Done, EpisodeRecord, Failed, Job, Ready, Start
from vla.types import Actor, Observation, SpecError


class JobQueue:
    """Episodes that wait, handed out so that a slot keeps its task: building an env costs seconds."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._waiting: dict[str, deque[Job]] = {}
        for job in jobs:
            self._waiting.setdefault(job.task, deque()).append(job)

    def next(self, task: str | None, running: Counter[str]) -> Job | None:
        """The next job for a slot whose env is of `task`, given how many slots play each task; None at the end.

        A slot whose own task is finished goes where most episodes wait for each slot.
        """
        if task is not None and self._waiting.get(task):
            return self._waiting[task].popleft()
        open_tasks = [name for name, jobs in self._waiting.items() if jobs]
        if not open_tasks:
            return None
        return self._waiting[max(open_tasks, key=lambda t: len(self._waiting[t]) / (1 + running[t]))].popleft()

    def put_back(self, job: Job) -> None:
        self._waiting[job.task].appendleft(job)


@dataclass
class _Robot:
    """What the policy's side keeps of one running episode."""

    job: Job
    memory: Any = None
    ensemble: TemporalEnsemble | None = None
    answer: Ready | None = None


class Pilot:
    """Batched inference for many robots of different age.

    Args:
        actor: whatever has `spec`, `history` and `act`.
        replan_every: steps of a chunk that are executed before the next `act`.
        ensemble: decay of temporal ensembling, None for none.
    """

    def __init__(self, actor: Actor, *, replan_every: int = 1, ensemble: float | None = None) -> None:
        if replan_every > 1 and actor.history > 1:
            raise UserError(
                f"replan_every is {replan_every}, but the policy looks back over {actor.history} steps and must see "
                "every one of them: set replan_every=1, or train the policy with history=1"
            )
        if replan_every > 1 and ensemble is not None:
            raise UserError(f"replan_every is {replan_every}, but ensembling needs a chunk for every step: set it to 1")
        self.actor, self.replan_every, self.ensemble = actor, replan_every, ensemble
        parameter = next(actor.parameters(), None) if isinstance(actor, torch.nn.Module) else None
        self._device = torch.device("cpu") if parameter is None else parameter.device

    def check(self, config: EnvConfig) -> None:
        """Raises SpecError with every way in which the env does not fit the policy."""
        if problems := self.actor.spec.differences(config.spec()):
            raise SpecError("the policy does not fit the env:\n" + "\n".join(f"  {line}" for line in problems))

    def act(self, robots: Sequence[_Robot], images: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The actions (n, A) that each robot executes next; updates memories. images: camera -> (B, H, W, 3)."""
        chosen: list[np.ndarray] = [np.empty(0)] * len(robots)
        fresh = [i for i, robot in enumerate(robots) if robot.memory is None]
        known = [i for i, robot in enumerate(robots) if robot.memory is not None]
        for rows in (fresh, known):  # memory=None starts an episode, so the two cannot share a batch
            if rows:
                for i, actions in zip(rows, self._act([robots[i] for i in rows], images, rows), strict=True):
                    chosen[i] = actions
        return chosen

    def _act(self, robots: list[_Robot], images: dict[str, np.ndarray], rows: list[int]) -> list[np.ndarray]:
        answers = [robot.answer for robot in robots]
        observation = Observation.from_numpy(
            {camera: images[camera][rows] for camera in self.actor.spec.cameras},
            np.stack([a.state for a in answers if a is not None]),
            [a.instruction for a in answers if a is not None],
        ).to(self._device)
        memories = [robot.memory for robot in robots]
        memory = None if memories[0] is None else type(memories[0]).stack(memories)
        chunk_BKA, memory = self.actor.act(observation, memory)
        chunks = self._checked(chunk_BKA, len(robots))
        for i, robot in enumerate(robots):
            robot.memory = None if memory is None else memory.select([i])
        if self.ensemble is None:
            return [chunk[: self.replan_every] for chunk in chunks]
        return [self._ensembled(robot, chunk) for robot, chunk in zip(robots, chunks, strict=True)]

    def _ensembled(self, robot: _Robot, chunk: np.ndarray) -> np.ndarray:
        assert self.ensemble is not None
        robot.ensemble = robot.ensemble or TemporalEnsemble(self.ensemble)
        return robot.ensemble.add(chunk)[None]

    def _checked(self, chunk_BKA: torch.Tensor, B: int) -> np.ndarray:
        chunk = chunk_BKA.detach().float().cpu().numpy()
        A = self.actor.spec.action_dim
        if chunk.ndim != 3 or chunk.shape[0] != B or chunk.shape[2] != A:
            raise RolloutError(f"act of {type(self.actor).__name__} gave actions {chunk.shape}, expected ({B}, K, {A})")
        if chunk.shape[1] < self.replan_every:
            raise UserError(
                f"replan_every is {self.replan_every}, but the policy plans {chunk.shape[1]} steps: set it to that or less"
            )
        if not np.isfinite(chunk).all():
            raise RolloutError(f"act of {type(self.actor).__name__} gave actions that are not finite")
        return chunk


@contextlib.contextmanager
def _inference(actor: Any) -> Iterator[None]:
    """Evaluation mode without gradients; a policy in the midst of its training gets its mode back."""
    module = actor if isinstance(actor, torch.nn.Module) else None
    was_training = module is not None and module.training
    if module is not None:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if module is not None:
            module.train(was_training)


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
    episode. What the policy raises passes through.
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
    with Pool(config, cameras, slots=slots, workers=min(workers, slots), timeout=timeout) as pool, _inference(actor):
        records = _play(pool, JobQueue(jobs), len(jobs), pilot, on_done)
    return [records[job.task, job.episode] for job in jobs]


def _play(
    pool: Pool, queue: JobQueue, total: int, pilot: Pilot | None, on_done: Callable[[EpisodeRecord], None]
) -> dict[tuple[str, int], EpisodeRecord]:
    records: dict[tuple[str, int], EpisodeRecord] = {}
    robots: dict[int, _Robot] = {}  # slot -> running episode
    tasks: dict[int, str] = {}  # slot -> task of its env
    lost_before: set[tuple[str, int]] = set()
    while len(records) < total:
        for slot in pool.idle_slots(robots):
            job = queue.next(tasks.get(slot), Counter(robot.job.task for robot in robots.values()))
            if job is None:
                break
            robots[slot], tasks[slot] = _Robot(job), job.task
            pool.send(Start(slot, job))
        waiting = [slot for slot, robot in robots.items() if robot.answer is not None]
        if waiting and 2 * len(waiting) >= len(robots):
            assert pilot is not None
            chosen = pilot.act([robots[slot] for slot in waiting], pool.gather(waiting))
            for slot, actions in zip(waiting, chosen, strict=True):
                robots[slot].answer = None
                pool.send(Act(slot, actions))
        for answer in pool.receive():
            if isinstance(answer, Lost):
                _requeue(answer, robots, tasks, queue, lost_before)
            elif isinstance(answer, Failed):
                job = robots[answer.slot].job
                raise RolloutError(f"task {job.task!r}, seed {job.seed}: the env raised\n{answer.traceback}")
            elif isinstance(answer, Ready):
                robots[answer.slot].answer = answer
            elif isinstance(answer, Done):
                record = answer.record
                del robots[answer.slot]
                records[record.task, record.episode] = record
                on_done(record)
    return records


def _requeue(
    lost: Lost,
    robots: dict[int, _Robot],
    tasks: dict[int, str],
    queue: JobQueue,
    lost_before: set[tuple[str, int]],
) -> None:
    """Puts the episodes of a dead worker back; raises where the one in work has killed a worker before."""
    culprit = robots[lost.working_on].job
    if (culprit.task, culprit.episode) in lost_before:
        raise RolloutError(
            f"task {culprit.task!r}, seed {culprit.seed}: the worker process {lost.reason}, twice in this episode"
        )
    lost_before.add((culprit.task, culprit.episode))
    for slot in lost.slots:
        tasks.pop(slot, None)
        if slot in robots:
            queue.put_back(robots.pop(slot).job)


__all__ = ["JobQueue", "Pilot", "RolloutError", "rollout"]
