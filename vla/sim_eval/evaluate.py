"""Measures a policy on a suite: episodes with paired seeds -> results, table of episodes, videos, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator

from vla.config import Choice, ConfigError, RootConfig, dump_config
from vla.sim_eval.env import Suite
from vla.sim_eval.report import write_report
from vla.sim_eval.results import Results, library_versions
from vla.sim_eval.rollout import default_workers, rollout
from vla.sim_eval.rollout_worker import Driver, EpisodeRecord, Job
from vla.sim_eval.seeding import episode_seed
from vla.types import Actor

BASELINES = ("expert", "random")


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
    num_envs: int | None = Field(None, ge=1)
    """Episodes that run at the same time; null: four for each worker."""
    replan_every: int = Field(1, ge=1)
    """Steps of an action chunk that are executed before the policy looks again."""
    ensemble: float | None = Field(None, ge=0)
    """Average overlapping chunks with weights exp(-ensemble * i), oldest first; null: do not."""
    after_success_steps: int = Field(0, ge=0)
    """Steps played after the first success, to see whether it lasts; 0: stop at the first success."""
    videos_per_task: int = Field(2, ge=0)
    """Episodes of each task that are filmed."""
    timeout: float = Field(300.0, gt=0)
    """Seconds without an answer after which a worker is replaced."""
    out: str = "runs/eval"
    """Folder for results.json, episodes.parquet, videos and report.html."""

    @model_validator(mode="after")
    def _chunks_in_one_way(self) -> EvalConfig:
        if self.ensemble is not None and self.replan_every > 1:
            raise ValueError(f"ensemble needs replan_every=1, got {self.replan_every}")
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
        name: of the policy in tables; default: the baseline's name, or `config.policy`.
        progress: whether to show a progress bar.
        command: what to type to measure again; default: `vla eval` with the config that is saved in `out`.

    Raises ConfigError where there is nothing to play, SpecError where the env does not fit the policy,
    RolloutError where an episode could not be played.
    """
    suite: Suite = config.env.suite()
    if config.episodes_per_task < 1 or not suite.tasks:
        raise ConfigError(
            [
                f"episodes_per_task: is {config.episodes_per_task} for {len(suite.tasks)} tasks: an evaluation needs one of each"
            ]
        )
    if isinstance(actor, str) and actor not in BASELINES:
        raise ConfigError([f"policy: {actor!r} is no baseline; give 'expert', 'random', or load_policy({actor!r})"])
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(dump_config(config))
    workers = default_workers(actor) if config.workers is None else config.workers
    driver = cast(Driver, actor) if isinstance(actor, str) else "parent"
    title = name or (actor if isinstance(actor, str) else config.policy)
    started = time.monotonic()
    with _progress_bar(title, suite, config.episodes_per_task, show=progress) as on_done:
        records = rollout(
            config.env,
            _jobs(config, suite, driver),
            None if isinstance(actor, str) else actor,
            workers=workers,
            num_envs=config.num_envs,
            replan_every=config.replan_every,
            ensemble=config.ensemble,
            timeout=config.timeout,
            on_done=on_done,
        )
    results = Results(
        policy=title,
        suite=suite.name,
        episodes=tuple(records),
        versions={**library_versions(), **config.env.versions()},
        config=config.model_dump(mode="json"),
        command=command or f"vla eval {out / 'config.yaml'}",
        seconds=time.monotonic() - started,
        folder=out,
    )
    results.save(out)
    write_report(out / "report.html", [results])
    return results


def _jobs(config: EvalConfig, suite: Suite, driver: Driver) -> list[Job]:
    videos = Path(config.out) / "videos"
    return [
        Job(
            task=task.name,
            group=task.group,
            episode=episode,
            seed=episode_seed("eval", config.seed, task.name, episode),
            horizon=task.horizon,
            driver=driver,
            after_success_steps=config.after_success_steps,
            video=videos / f"{task.name}-{episode:03d}.mp4" if episode < config.videos_per_task else None,
        )
        for task in suite.tasks
        for episode in range(config.episodes_per_task)
    ]


@contextlib.contextmanager
def _progress_bar(title: str, suite: Suite, per_task: int, *, show: bool) -> Iterator[Callable[[EpisodeRecord], None]]:
    """Yields what to call with each finished episode; shows successes so far and the time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[solved]} solved"), TimeElapsedColumn())
    with Progress(TextColumn("{task.description}"), *columns, TimeRemainingColumn(), disable=not show) as bar:
        row = bar.add_task(f"{title} on {suite.name}", total=per_task * len(suite.tasks), solved=0)
        solved = 0

        def on_done(record: EpisodeRecord) -> None:
            nonlocal solved
            solved += record.success_ever
            bar.update(row, advance=1, solved=solved)

        yield on_done
