"""Workers that are killed from outside: the evaluation is complete, and its records are those of an undisturbed one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter

from point_env import PointConfig
from restless import Killer, Restless

from vla.sim_eval.rollouts.jobs import EpisodeRecord, Job
from vla.sim_eval.rollouts.scheduler import RolloutStats, rollout
from vla.sim_eval.rollouts.seeding import episode_seed

CONFIG = PointConfig(image_size=48, horizon=12)


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
    killer, stats = Killer(CONFIG.spec(), {2, 9, 16, 23, 30}), RolloutStats()
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
