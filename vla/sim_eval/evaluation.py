"""Measures a policy on a suite: episodes with paired seeds -> results, table of episodes, videos, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field, model_validator

from vla.config import Choice, ConfigError, RootConfig, check_config, dump_config
from vla.sim_eval.comparison.failures import representatives
from vla.sim_eval.comparison.results import Results, library_versions
from vla.sim_eval.env import Suite
from vla.sim_eval.report import write_report
from vla.sim_eval.rollouts.actor_traits import traits_of
from vla.sim_eval.rollouts.batched_inference import BatchedPolicy
from vla.sim_eval.rollouts.jobs import Driver, EpisodeRecord, Job
from vla.sim_eval.rollouts.scheduler import RolloutStats, default_workers, rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.rollouts.settings import BATCH_SIZE, RolloutSettings
from vla.sim_eval.workers.launchers import Launcher, cluster_workers
from vla.types import Actor

BASELINES = ("expert", "random")
CONFIG_FILE = "eval.yaml"  # not config.yaml: that is training's, and both may share a folder
C = TypeVar("C", bound="EvalConfig")


class EvalConfig(RootConfig):
    """An evaluation. `vla eval CONFIG`, or `vla.evaluate(policy, config)`."""

    env: Annotated[Any, Choice("envs")]
    """The tasks and how they are drawn."""
    policy: str = "expert"
    """"expert", "random", or the folder of a checkpoint."""
    episodes_per_task: int = Field(20, ge=0)
    """Episodes of each task; 20 give a 95 % interval of about +- 20 points, 100 one of +- 10."""
    seed: int = Field(0, ge=0)
    """The same seed gives every policy the same starts."""
    workers: int | None = Field(None, ge=0)
    """Processes that step and render envs; null: one for each core, or half as many where the policy computes on a
    CPU of four cores or more. 0: none, all in one process."""
    launcher: Launcher = "local"
    """Where the workers run: "local" for this machine, "ray" for the Ray cluster at `ray_address`. Results are the same."""
    ray_address: str = "auto"
    """host:port of a Ray cluster; "auto" finds the one that `ray start` has started on this machine."""
    num_envs: int | None = Field(None, ge=1)
    """Episodes that run at the same time; null: `batch_size` for each worker, and that twice at least."""
    batch_size: int = Field(BATCH_SIZE, ge=1)
    """Episodes of a task that advance in lockstep and share the policy's batches. Results are the same to the bit for
    the same value; a large policy on a GPU wants more."""
    threads: int | None = Field(None, ge=1)
    """Threads of the policy's arithmetic on a CPU; null: half of the cores, whatever the number of workers."""
    replan_every: int = Field(1, ge=1)
    """Steps of an action chunk that are executed before the policy looks again."""
    ensemble: float | None = Field(None, ge=0)
    """Average overlapping chunks with weights exp(-ensemble * i), oldest first; null: do not."""
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    """0 executes a policy's most likely actions, 1 samples of its distribution."""
    target_return: float | None = Field(None, allow_inf_nan=False)
    """Return (1 or 0 for success or failure) that a return-conditioned policy is asked for; null: its own."""
    after_success_steps: int = Field(0, ge=0)
    """Steps played after the first success, to see whether it lasts; 0: stop at the first success."""
    videos_per_task: int = Field(2, ge=0)
    """Episodes of each task that are filmed."""
    failure_videos: int = Field(1, ge=0)
    """Films of each kind of failure of each task, of a policy: they show what it saw. 0: none."""
    timeout: float = Field(300.0, gt=0)
    """Seconds without an answer after which a worker is replaced."""
    out: str = "runs/eval"
    """Folder for results.json, episodes.parquet, eval.yaml, videos and report.html; it may be that of the training run."""

    @model_validator(mode="after")
    def _chunks_in_one_way(self) -> EvalConfig:
        if self.ensemble is not None and self.replan_every > 1:
            raise ValueError(f"ensemble needs replan_every=1, got {self.replan_every}")
        return self

    @model_validator(mode="after")
    def _someone_holds_the_envs(self) -> EvalConfig:
        if self.launcher == "ray" and self.workers == 0:
            raise ValueError(
                "launcher: ray needs workers of at least 1; 0 keeps the envs in this process"
            )
        return self


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
        name: of the policy in tables; default: the baseline's name, or the folder or repository from which the policy
            was loaded, or its class.
        progress: whether to show a progress bar.
        command: what to type to measure again; default: `vla eval` with the config that is saved in `out`, or a call in
            Python where nobody knows where the policy lies.

    Raises ConfigError where there is nothing to play, SpecError where the env does not fit the policy, UserError where
    the options do not, RolloutError where an episode could not be played.
    """
    check_config(config, EvalConfig)
    check_playable(actor, config)
    config = naming(actor, config)
    title, command = name or actor_name(actor), command or command_for(actor, config)
    out = save_config(config)
    stats, started = RolloutStats(), time.monotonic()
    with progress_bar(title, config, show=progress) as on_done:
        records = play(actor, config, range(config.episodes_per_task), on_done=on_done, stats=stats)
    results = save_results(
        records,
        config,
        name=title,
        command=command,
        seconds=time.monotonic() - started,
        losses=stats.lost,
    )
    write_report(out / "report.html", [results])
    return results


def play(
    actor: Actor | Literal["expert", "random"],
    config: EvalConfig,
    episodes: Iterable[int],
    *,
    on_done: Callable[[EpisodeRecord], None] = lambda record: None,
    stats: RolloutStats | None = None,
) -> list[EpisodeRecord]:
    """Plays these episodes of every task: what `evaluate` does, in part. Films go to `config.out`; nothing else is written."""
    check_playable(actor, config)
    workers = config.workers
    if workers is None:
        workers = (
            cluster_workers(config.ray_address)
            if config.launcher == "ray"
            else default_workers(actor)
        )
    jobs = _jobs(config, cast(Driver, actor) if isinstance(actor, str) else "policy", episodes)
    for job in jobs:
        _film(config, job.task, job.episode).unlink(
            missing_ok=True
        )  # of an earlier evaluation in this folder
    return rollout(
        config.env,
        jobs,
        None if isinstance(actor, str) else actor,
        _settings(config, workers=workers),
        on_done=on_done,
        stats=stats,
    )


def _settings(config: EvalConfig, *, workers: int = 0) -> RolloutSettings:
    return RolloutSettings(
        workers=workers,
        num_envs=config.num_envs,
        batch_size=config.batch_size,
        threads=config.threads,
        replan_every=config.replan_every,
        ensemble=config.ensemble,
        temperature=config.temperature,
        target_return=config.target_return,
        timeout=config.timeout,
        launcher=config.launcher,
        ray_address=config.ray_address,
    )


def save_results(
    records: Sequence[EpisodeRecord],
    config: EvalConfig,
    *,
    name: str,
    command: str,
    seconds: float = 0.0,
    losses: Sequence[str] = (),
    stopped_by: str = "",
) -> Results:
    """Chooses the films of failures and writes `results.json` and `episodes.parquet` into `config.out`."""
    out = Path(config.out)
    results = Results(
        policy=name,
        suite=config.env.suite().name,
        episodes=_with_failure_films(records, config),
        versions={**library_versions(), **config.env.versions()},
        config=config.model_dump(mode="json"),
        command=command,
        seconds=seconds,
        folder=out,
        losses=tuple(losses),
        stopped_by=stopped_by,
    )
    results.save(out)
    return results


def save_config(config: EvalConfig) -> Path:
    """Writes `eval.yaml` into `config.out`, which is made where it is missing; -> `config.out`."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    return out


def naming(actor: object, config: C) -> C:
    """The config whose `policy` is who plays: a baseline, or where the policy was loaded from. Where nobody knows that,
    what the config says stays, unless it names a baseline: then it becomes the policy's class."""
    policy = _source(actor)
    if policy is None:
        policy = type(actor).__name__ if config.policy in BASELINES else config.policy
    return config.model_copy(update={"policy": policy})


def actor_name(actor: object) -> str:
    """What an actor is called in tables: a baseline's name, the place that a policy was loaded from, or its class."""
    source = _source(actor)
    return type(actor).__name__ if source is None else policy_name(source)


def policy_name(policy: str) -> str:
    """What a policy is called in tables: "runs/mt10/policy" is "mt10", other folders keep their last two parts."""
    parts = [part for part in policy.split("/") if part not in ("", ".")]
    return "/".join(parts[-2:]) if parts[-1:] != ["policy"] or len(parts) == 1 else parts[-2]


def command_for(actor: object, config: EvalConfig) -> str:
    """What measures again by the config in `config.out`: on the command line where it can name the policy, else in Python."""
    file = Path(config.out) / CONFIG_FILE
    if _source(actor) is not None:
        return f"vla eval {file}"
    return f'vla.evaluate(policy, vla.load_config(vla.EvalConfig, "{file}"))  # policy: the same {type(actor).__name__}'


def _source(actor: object) -> str | None:
    """A baseline's name, or where a policy was loaded from (`Policy.source`); None where nobody knows."""
    return actor if isinstance(actor, str) else traits_of(actor).source


def check_playable(actor: Actor | Literal["expert", "random"], config: EvalConfig) -> None:
    """Raises ConfigError where there is nothing to play or nobody to play it, SpecError where the env does not fit the
    policy, UserError where the options do not. Writes nothing."""
    tasks = len(config.env.suite().tasks)
    if config.episodes_per_task < 1 or not tasks:
        raise ConfigError(
            [
                f"episodes_per_task: is {config.episodes_per_task} for {tasks} tasks: an evaluation needs one of each"
            ]
        )
    if isinstance(actor, str) and actor not in BASELINES:
        raise ConfigError(
            [
                f"policy: {actor!r} is no baseline; give 'expert', 'random', or load_policy({actor!r})"
            ]
        )
    if not isinstance(actor, str):
        BatchedPolicy(actor, _settings(config)).check(config.env)


def _film(config: EvalConfig, task: str, episode: int) -> Path:
    return (
        Path(config.out).resolve() / "videos" / f"{task}-{episode:03d}.mp4"
    )  # workers may stand in another folder


def _with_failure_films(
    records: Sequence[EpisodeRecord], config: EvalConfig
) -> tuple[EpisodeRecord, ...]:
    """The records, in which the first films of each kind of failure are named; the surplus is deleted."""
    wanted, chosen = representatives(records, config.failure_videos), []
    for record in records:
        file = _film(config, record.task, record.episode)
        if not record.video and (record.task, record.episode) in wanted and file.is_file():
            record = replace(record, video=f"{file.parent.name}/{file.name}")
        elif not record.video:
            file.unlink(missing_ok=True)
        chosen.append(record)
    return tuple(chosen)


def _jobs(config: EvalConfig, driver: Driver, episodes: Iterable[int]) -> list[Job]:
    numbers = list(episodes)
    return [
        Job(
            task=task.name,
            group=task.group,
            episode=episode,
            seed=episode_seed("eval", config.seed, task.name, episode),
            horizon=task.horizon,
            driver=driver,
            after_success_steps=config.after_success_steps,
            video=_film(config, task.name, episode) if episode < config.videos_per_task else None,
            failure_video=_film(config, task.name, episode) if config.failure_videos else None,
            failure_videos=config.failure_videos,
        )
        for task in config.env.suite().tasks
        for episode in numbers
    ]


@contextlib.contextmanager
def progress_bar(
    title: str, config: EvalConfig, *, show: bool = True
) -> Iterator[Callable[[EpisodeRecord], None]]:
    """Yields what to call with each finished episode; shows successes so far and the time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    suite: Suite = config.env.suite()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[solved]} solved"),
        TimeElapsedColumn(),
    )
    with Progress(
        TextColumn("{task.description}"), *columns, TimeRemainingColumn(), disable=not show
    ) as bar:
        row = bar.add_task(
            f"{title} on {suite.name}", total=config.episodes_per_task * len(suite.tasks), solved=0
        )
        solved = 0

        def on_done(record: EpisodeRecord) -> None:
            nonlocal solved
            solved += record.success_ever
            bar.update(row, advance=1, solved=solved)

        yield on_done
