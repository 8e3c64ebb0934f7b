"""Workers that are killed from outside: the evaluation is complete, and its records are those of an undisturbed one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter

import torch
from point_env import PointConfig
from restless import Restless, Trace

from vla.sim_eval.rollouts.jobs import EpisodeRecord, Job
from vla.sim_eval.rollouts.scheduler import RolloutStats, rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.types import Observation

CONFIG = PointConfig(image_size=48, horizon=12)


class Killer(Restless):
    """Kills a worker process, in the midst of its episodes, whenever it acts for the n-th time."""

    def __init__(self, calls: set[int]) -> None:
        super().__init__(CONFIG.spec())
        self.calls, self.count, self.killed = calls, 0, 0

    def act(
        self, observation: Observation, memory: Trace | None = None
    ) -> tuple[torch.Tensor, Trace]:
        self.count += 1
        if self.count in self.calls:
            children = sorted(multiprocessing.active_children(), key=lambda process: process.name)
            os.kill(children[self.killed % len(children)].pid, signal.SIGKILL)
            self.killed += 1
        return super().act(observation, memory)


def jobs(driver: str = "policy") -> list[Job]:
    return [
        Job(task.name, task.group, e, episode_seed("eval", 0, task.name, e), task.horizon, driver)
        for task in CONFIG.suite().tasks
        for e in range(6)
    ]


def played(
    actor: Restless | None, workers: int, driver: str = "policy", **options
) -> list[EpisodeRecord]:
    return rollout(CONFIG, jobs(driver), actor, workers=workers, **options)


def test_five_kills_change_nothing() -> None:
    killer, stats = Killer({2, 9, 16, 23, 30}), RolloutStats()
    done: list[EpisodeRecord] = []
    records = played(killer, 2, stats=stats, on_done=done.append)
    assert killer.killed == stats.lost_workers == 5
    assert all("exit code -9" in line for line in stats.lost)
    assert records == played(Restless(CONFIG.spec()), 0)
    assert set(Counter((r.task, r.episode) for r in done).values()) == {1}
    assert [(r.task, r.episode) for r in records] == [(job.task, job.episode) for job in jobs()]
    assert not multiprocessing.active_children()


def test_kills_of_a_baselines_workers() -> None:
    def kill(record: EpisodeRecord) -> None:
        if record.episode == 2:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    assert played(None, 2, "random", on_done=kill) == played(None, 0, "random")
