"""Measures a policy on a suite.

Episodes with paired seeds become results, a table of episodes, videos and a report.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vla.common.progress import progress_bar
from vla.config import ConfigError, check_config, dump_config
from vla.sim_eval.comparison.failures import representatives
from vla.sim_eval.comparison.results import Results, library_versions
from vla.sim_eval.evaluation_config import EvalConfig
from vla.sim_eval.policy_names import (
    BASELINES,
    CONFIG_FILE,
    actor_name,
    command_for,
    naming,
    policy_name,
    training_of,
)
from vla.sim_eval.report import write_report
from vla.sim_eval.rollouts.batched_inference import BatchedPolicy
from vla.sim_eval.rollouts.jobs import EpisodeRecord, Job
from vla.sim_eval.rollouts.scheduler import RolloutStats, default_workers, rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.workers.launchers import cluster_workers
from vla.types import Actor

OnDone = Callable[[EpisodeRecord], None]
"""Called with each episode as it is over."""


def evaluate(
    actor: Actor | Literal["expert", "random"],
    config: EvalConfig,
    *,
    name: str | None = None,
    progress: bool = True,
    command: str | None = None,
) -> Results:
    """Plays `episodes_per_task` episodes of every task and writes everything into `config.out`.

    Args:
        actor: a policy, or one of the baselines "expert" and "random".
        config: the evaluation.
        name: of the policy in tables; default: the baseline's name, or the folder or repository
            from which the policy was loaded, or its class.
        progress: whether to show a progress bar.
        command: what to type to measure again; default: `vla eval` with the config that is saved in
            `out`, or a call in Python if it is not known where the policy lies.

    Raises ConfigError if there is nothing to play, SpecError if the env does not fit the policy,
    UserError if the options do not, RolloutError if an episode could not be played.
    """
    check_config(config, EvalConfig)
    # before anything is written: a folder of earlier results must survive a wrong config
    check_playable(actor, config)
    config = naming(actor, config)
    title = name or actor_name(actor)
    command = command or command_for(actor, config)
    out = save_config(config)
    stats = RolloutStats()
    started = time.monotonic()
    with episode_progress(title, config, show=progress) as on_done:
        records = play(actor, config, range(config.episodes_per_task), on_done=on_done, stats=stats)
    results = save_results(
        records,
        config,
        name=title,
        command=command,
        seconds=time.monotonic() - started,
        losses=stats.lost,
        training=training_of(actor),
    )
    write_report(out / "report.html", [results])
    return results


def play(
    actor: Actor | Literal["expert", "random"],
    config: EvalConfig,
    episodes: Iterable[int],
    *,
    on_done: OnDone = lambda record: None,
    stats: RolloutStats | None = None,
) -> list[EpisodeRecord]:
    """Plays these episodes of every task: what `evaluate` does, in part.

    Films go to `config.out`; nothing else is written. Raises what `evaluate` raises.
    """
    check_playable(actor, config)
    # raises if there is no cluster, so before films are deleted
    workers = _workers(actor, config)
    jobs = _jobs(actor, config, list(episodes))
    for job in jobs:
        # of an earlier evaluation in this folder: its film would be taken for that of this episode
        _film(config, job.task, job.episode).unlink(missing_ok=True)
    return rollout(
        config.env,
        jobs,
        None if isinstance(actor, str) else actor,
        config.rollout_settings(workers=workers),
        on_done=on_done,
        stats=stats,
    )


def _workers(actor: Actor | Literal["expert", "random"], config: EvalConfig) -> int:
    if config.workers is not None:
        return config.workers
    if config.launcher == "ray":
        return cluster_workers(config.ray_address)
    return default_workers(actor)


def _jobs(
    actor: Actor | Literal["expert", "random"], config: EvalConfig, episodes: Sequence[int]
) -> list[Job]:
    """The episodes of every task, with films of the first and of failures."""
    jobs = []
    for task in config.env.suite().tasks:
        for episode in episodes:
            film = _film(config, task.name, episode)
            job = Job(
                task=task.name,
                group=task.group,
                episode=episode,
                # of task and number alone: all policies meet the same starts
                seed=episode_seed("eval", config.seed, task.name, episode),
                horizon=task.horizon,
                driver=actor if isinstance(actor, str) else "policy",
                after_success_steps=config.after_success_steps,
                video=film if episode < config.videos_per_task else None,
                failure_video=film if config.failure_videos else None,
                failure_videos=config.failure_videos,
            )
            jobs.append(job)
    return jobs


def check_playable(actor: Actor | Literal["expert", "random"], config: EvalConfig) -> None:
    """Raises if the evaluation cannot begin; writes nothing.

    ConfigError if there is nothing to play or no such baseline, SpecError if the env does not fit
    the policy, UserError if the options do not.
    """
    tasks = len(config.env.suite().tasks)
    if config.episodes_per_task < 1 or not tasks:
        raise ConfigError(
            [
                f"episodes_per_task: is {config.episodes_per_task} for {tasks} tasks: an "
                "evaluation needs one of each"
            ]
        )
    if not isinstance(actor, str):
        # what the config alone cannot know: whether policy, env and options go together
        BatchedPolicy(actor, config.rollout_settings()).check(config.env)
    elif actor not in BASELINES:
        raise ConfigError(
            [
                f"policy: {actor!r} is no baseline; give 'expert', 'random', or "
                f"load_policy({actor!r})"
            ]
        )


def save_config(config: EvalConfig) -> Path:
    """Writes `eval.yaml` into `config.out`, which is made if it is missing; -> `config.out`."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    return out


def save_results(
    records: Sequence[EpisodeRecord],
    config: EvalConfig,
    *,
    name: str,
    command: str,
    seconds: float = 0.0,
    losses: Sequence[str] = (),
    stopped_by: str = "",
    training: Mapping[str, Any] | None = None,
) -> Results:
    """Chooses the films of failures and writes `results.json` and `episodes.parquet`."""
    out = Path(config.out)
    results = Results(
        policy=name,
        suite=config.env.suite().name,
        episodes=_with_failure_films(records, config),
        # by versions and config a comparison finds out whether two runs may be compared
        versions={**library_versions(), **config.env.versions()},
        config=config.model_dump(mode="json"),
        command=command,
        seconds=seconds,
        folder=out,
        losses=tuple(losses),
        stopped_by=stopped_by,
        training=training or {},
    )
    results.save(out)
    return results


def _film(config: EvalConfig, task: str, episode: int) -> Path:
    # absolute: workers may stand in another folder
    return Path(config.out).resolve() / "videos" / f"{task}-{episode:03d}.mp4"


def _with_failure_films(
    records: Sequence[EpisodeRecord], config: EvalConfig
) -> tuple[EpisodeRecord, ...]:
    """The records, with the first films of each kind of failure named; the surplus is deleted."""
    # Each worker has kept the first that it saw. Only here, where all records are, is it known
    # which come first by number: so the choice depends on no worker.
    wanted = representatives(records, config.failure_videos)
    named = []
    for record in records:
        file = _film(config, record.task, record.episode)
        if record.video:
            named.append(record)
        elif (record.task, record.episode) in wanted and file.is_file():
            named.append(replace(record, video=f"{file.parent.name}/{file.name}"))
        else:
            file.unlink(missing_ok=True)
            named.append(record)
    return tuple(named)


@contextlib.contextmanager
def episode_progress(title: str, config: EvalConfig, *, show: bool = True) -> Iterator[OnDone]:
    """A bar with the successes so far; gives what to call with each finished episode."""
    suite = config.env.suite()
    total = config.episodes_per_task * len(suite.tasks)
    done = solved = 0
    with progress_bar(f"{title} on {suite.name}", show=show, note="0 solved") as bar:
        bar(0, total)

        def on_done(record: EpisodeRecord) -> None:
            nonlocal done, solved
            done += 1
            solved += record.success_ever
            bar(done, total, note=f"{solved} solved")

        yield on_done


__all__ = [
    "BASELINES",
    "CONFIG_FILE",
    "EvalConfig",
    "Results",
    "actor_name",
    "check_playable",
    "command_for",
    "episode_progress",
    "evaluate",
    "naming",
    "play",
    "policy_name",
    "save_config",
    "save_results",
    "training_of",
]
