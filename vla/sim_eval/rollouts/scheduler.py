"""Plays episodes: envs step and render in worker processes while the policy acts here, in batches.

Episodes are reproducible to the bit. The seed of an episode depends on (task, episode) alone, so
every policy meets the same starts; the batches in which the policy acts depend on the list of
episodes alone (`lockstep`), and an episode that loses its worker is led to where it was by its past
actions. So on one machine the records are the same for any number of workers, local or on a Ray
cluster, and whatever was killed meanwhile, provided that

- envs are reproducible, which `check_env` looks at;
- `act` is a function of observation and memory (random numbers of torch's own generators are
  seeded);
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
from vla.control.batched_inference import ActionError, BatchedPolicy, EpisodeState
from vla.control.inference_mode import computes_on_cpu, inference
from vla.data import Episode as PlayedEpisode
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollouts.env_host import Act, Done, Failed, Ready, Start
from vla.sim_eval.rollouts.env_workers import EnvWorkers, LostEnvs, open_env_workers
from vla.sim_eval.rollouts.jobs import Decision, EpisodeRecord, Job
from vla.sim_eval.rollouts.lockstep import BatchQueue, Episode, EpisodeBatch, make_batches
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.types import Actor

Records = dict[tuple[str, int], EpisodeRecord]
"""(task, number of the episode) -> record."""
KILLS = 10  # of one episode's worker, by signals from outside; more than that is no accident


class RolloutError(UserError):
    """An episode could not be played; the message names its task and seed."""


def default_workers(actor: object) -> int:
    """One for each core; half of them if a policy needs the other half, and there are four."""
    cores = usable_cores()
    return cores // 2 if computes_on_cpu(actor) and cores >= 4 else cores


@dataclass
class RolloutStats:
    """What happened on the way.

    Attributes:
        lost: task, seed and cause of each loss of a worker.
        actions: (task, number of the episode) -> float32 (n, A), what the policy executed; None
            keeps none.
        episodes: (task, number of the episode) -> the steps of the jobs that are recorded; None
            keeps none.
    """

    lost: list[str] = field(default_factory=list)
    actions: dict[tuple[str, int], np.ndarray] | None = None
    episodes: dict[tuple[str, int], PlayedEpisode] | None = None

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
    finished: Records | None = None,
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
        finished: records of episodes that were played before, with the same jobs and settings. What
            shared a batch with one that is missing is played again, to the same record.
        options: single settings by name, such as `workers=2`: they take the place of those in
            `settings`.

    Raises UserError if there is nothing to play or the options contradict the policy, SpecError if
    the env does not fit the policy, RolloutError if an env raises, breaks its contract, or loses
    its worker too often, ActionError if the policy gives no usable actions. What the policy itself
    raises passes through.
    """
    settings = replace(settings or RolloutSettings(), **options)
    if not jobs:
        raise UserError(
            "no episodes to play: the number of episodes and the list of tasks must not be empty"
        )
    _check_watched(jobs, settings)
    needs_policy = any(job.driver == "policy" for job in jobs)
    if needs_policy and actor is None:
        raise ValueError("jobs of the driver 'policy' need an actor")
    policy = None
    cameras = tuple(config.spec().cameras)
    if actor is not None:
        policy = BatchedPolicy(actor, settings)
        policy.check(config.spec())
        cameras = tuple(actor.spec.cameras)
    num_envs = settings.num_envs
    batches = make_batches(jobs, min(settings.batch_size, num_envs or settings.batch_size))
    size = max(len(batch.jobs) for batch in batches)
    records = dict(finished or {})
    # whole batches: how the sums of an episode are rounded depends on those beside it
    batches = [batch for batch in batches if not _is_finished(batch, records)]
    if not batches:
        return [records[job.task, job.episode] for job in jobs]
    at_once = _batches_at_once(settings, size, needs_policy=needs_policy)
    batch_slots = min(len(batches), at_once)
    slots = batch_slots * size
    workers = min(settings.workers, slots)
    # Half of the cores whatever the number of workers: threads decide how sums are rounded.
    threads = settings.threads or max(1, usable_cores() // 2)
    with (
        open_env_workers(config, cameras, slots=slots, workers=workers, settings=settings) as envs,
        inference(actor, threads=threads),
    ):
        scheduler = Scheduler(
            envs,
            policy,
            batch_slots=batch_slots,
            size=size,
            retries=settings.retries,
            on_done=on_done,
            stats=stats if stats is not None else RolloutStats(),
        )
        records |= scheduler.run(batches)
    return [records[job.task, job.episode] for job in jobs]


def _check_watched(jobs: Sequence[Job], settings: RolloutSettings) -> None:
    """Raises UserError if a person is to watch episodes that run elsewhere, or several at once."""
    watched = any(job.takeover is not None and job.takeover.needs_person for job in jobs)
    if watched and (settings.workers or settings.batch_size > 1):
        raise UserError(
            f"gate: a person watches one episode at a time, in this process; workers is "
            f"{settings.workers} and batch_size {settings.batch_size}: set workers=0 and "
            "batch_size=1 (of vla online: act.workers, act.batch_size)"
        )


def _is_finished(batch: EpisodeBatch, records: Records) -> bool:
    return all((job.task, job.episode) in records for job in batch.jobs)


def _batches_at_once(settings: RolloutSettings, size: int, *, needs_policy: bool) -> int:
    """How many batches of `size` episodes are played at the same time, if there are enough."""
    if not needs_policy:
        # They run through in their worker: more envs than workers would only cost memory.
        return max(settings.workers, 1)
    if settings.num_envs:
        return settings.num_envs // size
    # Two at least, so that envs step while the policy acts in the other batch; without workers
    # nothing overlaps.
    return max(settings.workers, 2) if settings.workers else 1


class Scheduler:
    """Plays batches of episodes on the slots of workers.

    A *batch slot* is room for one batch: the p-th one owns the slots from p * size on.

    Args:
        envs: the workers, with `batch_slots * size` slots.
        policy: None if all episodes are those of baselines.
        batch_slots: batches that are played at the same time.
        size: most episodes of a batch.
        retries: how often an episode may lose a worker that had it in hand.
        on_done, stats: as for `rollout`.
    """

    def __init__(
        self,
        envs: EnvWorkers,
        policy: BatchedPolicy | None,
        *,
        batch_slots: int,
        size: int,
        retries: int,
        on_done: Callable[[EpisodeRecord], None],
        stats: RolloutStats,
    ) -> None:
        self.envs = envs
        self.policy = policy
        self.size = size
        self.retries = retries
        self.on_done = on_done
        self.stats = stats
        # by batch slot: the batch that is played there, and the task for which envs stand there
        self.batches: list[EpisodeBatch | None] = [None] * batch_slots
        self.tasks: list[str | None] = [None] * batch_slots
        self.records: Records = {}

    def run(self, batches: Sequence[EpisodeBatch]) -> Records:
        """Plays all of them. Raises what `rollout` raises while episodes run."""
        queue = BatchQueue(batches)
        total = sum(len(batch.jobs) for batch in batches)
        while len(self.records) < total:
            self._start_batches(queue)
            for batch in self.batches:
                if batch is not None and batch.ready:
                    self._act(batch)
            for answer in self.envs.receive():
                self._take(answer)
        return self.records

    def _start_batches(self, queue: BatchQueue) -> None:
        """Starts the next batches on the batch slots that are free."""
        for number, batch in enumerate(self.batches):
            if batch is not None and batch.running:
                continue
            started = queue.next(self.tasks[number], self._running_tasks())
            self.batches[number] = started
            if started is None:
                continue
            self.tasks[number] = started.task
            for slot, job in enumerate(started.jobs, start=number * self.size):
                measure = None if job.takeover is None else job.takeover.policy_measure
                started.running[slot] = Episode(job, EpisodeState(measure=measure))
                self.envs.send(Start(slot, job))

    def _running_tasks(self) -> Counter[str]:
        """task -> batches of it that are being played."""
        running = [batch for batch in self.batches if batch is not None and batch.running]
        return Counter(batch.task for batch in running)

    def _act(self, batch: EpisodeBatch) -> None:
        assert self.policy is not None
        slots = list(batch.running)
        states = [episode.state for episode in batch.running.values()]
        images = self.envs.gather(slots)
        chosen = self.policy.act(states, images, seed=batch.next_seed())
        for slot, actions in zip(slots, chosen, strict=True):
            episode = batch.running[slot]
            decision = Decision(actions, episode.state.uncertainty)
            # kept before it is sent: a worker that is lost with it must be sent it again
            episode.past.append(decision)
            self.envs.send(Act(slot, decision))

    def _take(self, answer: Ready | Done | Failed | LostEnvs) -> None:
        if isinstance(answer, LostEnvs):
            self._retry(answer)
            return
        running = self._running_at(answer.slot)
        episode = running[answer.slot]
        if isinstance(answer, Failed):
            raise RolloutError(f"{_named(episode.job)}: {answer.reason}")
        if isinstance(answer, Ready):
            episode.state.robot_state = answer.state
            episode.state.instruction = answer.instruction
            episode.state.reward = answer.reward
            episode.state.privileged = answer.privileged
            if answer.executed is not None and self.policy is not None:
                self.policy.tell_executed(episode.state, answer.executed)
            return
        del running[answer.slot]
        record = answer.record
        if self.stats.actions is not None and episode.past:
            # the last chunk may have been cut by the episode's end
            executed_nA = np.concatenate([d.actions for d in episode.past])[: record.steps]
            if answer.episode is not None:
                executed_nA = answer.episode.actions  # the expert may have taken over
            self.stats.actions[record.task, record.episode] = executed_nA
        if self.stats.episodes is not None and answer.episode is not None:
            self.stats.episodes[record.task, record.episode] = answer.episode
        self.records[record.task, record.episode] = record
        self.on_done(record)

    def _retry(self, lost: LostEnvs) -> None:
        """Leads the episodes of a lost worker to where they were.

        Raises RolloutError if one has cost too many workers.
        """
        culprit = self._running_at(lost.working_on)[lost.working_on]
        if lost.from_outside:
            culprit.kills += 1
        else:
            culprit.deaths += 1
        what = f"{_named(culprit.job)}: the worker process {lost.reason}"
        if culprit.deaths > self.retries or culprit.kills > KILLS:
            ordinal = _ordinal(culprit.deaths + culprit.kills)
            raise RolloutError(f"{what}; it is the {ordinal} that this episode has lost")
        self.stats.lost.append(what)
        for slot in lost.slots:
            episode = self._running_at(slot).get(slot)
            if episode is not None:
                self._restart(slot, episode)

    def _restart(self, slot: int, episode: Episode) -> None:
        # Its batch waits for it. What the policy remembers lies here, and is still right.
        episode.state.robot_state = None
        self.envs.send(Start(slot, episode.job, tuple(episode.past)))

    def _running_at(self, slot: int) -> dict[int, Episode]:
        """The running episodes of the batch that owns the slot."""
        batch = self.batches[slot // self.size]
        return {} if batch is None else batch.running


def _named(job: Job) -> str:
    return f"task {job.task!r}, seed {job.seed}"


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


__all__ = [
    "ActionError",
    "RolloutError",
    "RolloutStats",
    "Scheduler",
    "default_workers",
    "rollout",
]
