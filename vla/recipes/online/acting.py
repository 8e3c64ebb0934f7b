"""The first part of a round: which episodes are played, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla.config import ConfigError
from vla.data import Episode
from vla.models.policy import Policy
from vla.recipes.online.config import OnlineConfig
from vla.sim_eval.env import EnvConfig, Task
from vla.sim_eval.rollouts.jobs import EpisodeRecord, Job
from vla.sim_eval.rollouts.scheduler import RolloutStats, rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.training.online_rl.policy_gradient import GROUP


@dataclass(frozen=True)
class Played:
    """What a round has played.

    Attributes:
        episodes: in the order of the jobs; `info` names task, episode, seed, draw and round.
        records: beside them.
    """

    episodes: list[Episode]
    records: list[EpisodeRecord]

    def numbers(self) -> dict[str, float]:
        """What is logged of them."""
        return {
            "played/success": float(np.mean([record.success_ever for record in self.records])),
            "played/return": float(np.mean([record.return_ for record in self.records])),
            "played/steps": float(sum(record.steps for record in self.records)),
        }


def jobs_of_round(config: OnlineConfig, number: int, *, label_chunk: int = 1) -> list[Job]:
    """The episodes of round `number`, which counts from 1, spread evenly over the tasks.

    `label_chunk`: how many actions the expert labels at each step, if it labels.

    Their starts are those of collection, which no evaluation ever meets.

    Raises ConfigError if the tasks do not divide the episodes.
    """
    tasks = config.env.suite().tasks
    starts = config.episodes_per_round // config.episodes_per_start
    if starts % len(tasks):
        wanted = -(-starts // len(tasks)) * len(tasks) * config.episodes_per_start
        raise ConfigError(
            [
                f"episodes_per_round: {config.episodes_per_round} does not divide among "
                f"{len(tasks)} tasks with {config.episodes_per_start} episodes of each start; use "
                f"{wanted}"
            ]
        )
    per_task = starts // len(tasks)
    jobs = []
    for task in tasks:
        for index in range(per_task):
            start = (number - 1) * per_task + index
            of_start = _of_start(config, task, number, start)
            jobs += [replace(job, label_chunk=label_chunk) for job in of_start]
    return jobs


def _of_start(config: OnlineConfig, task: Task, number: int, start: int) -> list[Job]:
    takeover = None if config.label is None else config.label.takeover(number)
    first = Job(
        task=task.name,
        group=task.group,
        episode=start * config.episodes_per_start,
        seed=episode_seed("collect", config.seed, task.name, start),
        horizon=task.horizon,
        record=True,
        label=config.label is not None,
        takeover=takeover,
        stop_if_stuck=config.act.stop_if_stuck,
    )
    return [
        replace(first, episode=first.episode + draw, draw=draw)
        for draw in range(config.episodes_per_start)
    ]


def require_expert(env: EnvConfig) -> bool:
    """Whether the expert can be played ahead in the env, which is then put back.

    Raises ConfigError if a task has no expert, or one that cannot correct a policy.
    """
    problems = []
    plays_ahead = True
    for task in env.suite().tasks:
        made = env.make(task.name)
        try:
            made.reset(seed=0)
            if made.expert_has_memory:
                problems.append(f"task {task.name!r}: its expert depends on its own past")
            else:
                made.expert_action()
            plays_ahead = plays_ahead and bool(made.changing_parts())
        except RuntimeError as error:
            problems.append(f"task {task.name!r}: {error}")
        finally:
            made.close()
    if problems:
        remedy = "leave label out, or choose other tasks or another env"
        raise ConfigError([f"label: {line}; {remedy}" for line in problems])
    return plays_ahead


def play_round(
    config: OnlineConfig,
    policy: Policy,
    number: int,
    on_done: Callable[[EpisodeRecord], None] = lambda record: None,
    *,
    label_chunk: int = 1,
) -> Played:
    """Plays round `number` with the policy as it is; `on_done` is called with each episode.

    `label_chunk` as of `jobs_of_round`.

    Raises what `rollout` raises.
    """
    jobs = jobs_of_round(config, number, label_chunk=label_chunk)
    stats = RolloutStats(episodes={})
    records = rollout(
        config.env,
        jobs,
        policy,
        config.act.settings(config.temperature, number),
        on_done=on_done,
        stats=stats,
    )
    assert stats.episodes is not None
    episodes = [stats.episodes[job.task, job.episode] for job in jobs]
    return Played(_numbered(episodes, number), records)


def _numbered(episodes: Sequence[Episode], number: int) -> list[Episode]:
    """The episodes with their round, and with the number of their start as a column."""
    # by task and seed: seeds of different tasks are drawn apart, but may coincide
    groups: dict[tuple[object, object], int] = {}
    found = []
    for episode in episodes:
        start = (episode.info["task"], episode.info["seed"])
        group = groups.setdefault(start, len(groups))
        column = np.full(len(episode), group, np.int64)
        info = episode.info | {"round": number}
        found.append(replace(episode, info=info, extras={**episode.extras, GROUP: column}))
    return found


__all__ = ["Played", "jobs_of_round", "play_round"]
