"""Measures a policy on a suite.

Episodes with paired seeds become results, a table of episodes, videos and a report.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vla.common.atomic import write_text
from vla.common.folder_lock import alone
from vla.common.progress import progress_bar
from vla.common.terminal.consoles import output_console
from vla.config import ConfigError, UserError, check_config, dump_config
from vla.control.batched_inference import BatchedPolicy
from vla.sim_eval.comparison.failures import representatives
from vla.sim_eval.comparison.installing import (
    JOURNAL,
    UNFINISHED,
    VIDEOS,
    finish_installing,
    install,
)
from vla.sim_eval.comparison.results import Results, ResultsError
from vla.sim_eval.evaluation_config import EvalConfig
from vla.sim_eval.identity import decisive, identity_of, policy_identity, versions_of
from vla.sim_eval.journal import Journal, JournalError, kept_episodes
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
from vla.sim_eval.rollouts.jobs import EpisodeRecord, Job
from vla.sim_eval.rollouts.scheduler import Records, RolloutStats, default_workers, rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.workers.launchers import cluster_workers
from vla.types import Actor

LOCK_FILE = ".eval.lock"  # not the folder itself: it may be that of a training that goes on
OnDone = Callable[[EpisodeRecord], None]
"""Called with each episode as it is over."""


def evaluate(
    actor: Actor | Literal["expert", "random"],
    config: EvalConfig,
    *,
    name: str | None = None,
    progress: bool = True,
    command: str | None = None,
    resume: bool = False,
    restart: bool = False,
) -> Results:
    """Plays `episodes_per_task` episodes of every task and writes everything into `config.out`.

    Episodes are kept as they finish. What `config.out` held before stays as it is until the
    evaluation is complete, and is then replaced as a whole.

    Args:
        actor: a policy, or one of the baselines "expert" and "random".
        config: the evaluation.
        name: of the policy in tables; default: the baseline's name, or the folder or repository
            from which the policy was loaded, or its class.
        progress: whether to show a progress bar.
        command: what to type to measure again; default: `vla eval` with the config that is saved in
            `out`, or a call in Python if it is not known where the policy lies.
        resume: go on with an interrupted evaluation of the same config, software and weights; the
            results are those of one that was not interrupted. One that is complete is returned.
        restart: start over, where what was interrupted is not, or must not be, gone on with.

    Raises ConfigError if there is nothing to play, SpecError if the env does not fit the policy,
    UserError if the options do not or `out` holds an interrupted evaluation, RolloutError if an
    episode could not be played.
    """
    check_config(config, EvalConfig)
    # before anything is written: a folder of earlier results must survive a wrong config
    check_playable(actor, config)
    weights = policy_identity(actor, name or config.policy)
    config = naming(actor, config)
    title = name or actor_name(actor)
    command = command or command_for(actor, config)
    out = Path(config.out)
    decided = {
        "policy": weights,
        "versions": versions_of(config),
        **decisive(config.model_dump(mode="json"), films=True),
    }
    with alone(out, file=LOCK_FILE):
        finish_installing(out)
        if resume and (known := _complete(out, decided)) is not None:
            return known
        journal = _open_journal(out, decided, resume=resume, restart=restart)
        written = out / UNFINISHED
        save_config(config, written)
        stats = RolloutStats()
        with episode_progress(title, config, show=progress) as on_done:

            def keep(record: EpisodeRecord) -> None:
                journal.add(record)
                on_done(record)

            # of batches that are complete: they are not played, but counted
            finished = dict(journal.records)
            records = play(
                actor,
                config,
                range(config.episodes_per_task),
                on_done=keep,
                stats=stats,
                folder=written,
                finished=finished,
            )
        journal.lose(stats.lost)
        results = save_results(
            records,
            config,
            name=title,
            command=command,
            seconds=journal.seconds,
            losses=journal.losses,
            training=training_of(actor),
            folder=written,
            identity=identity_of(decided),
        )
        write_report(written / "report.html", [results])
        install(written, out)
    return replace(results, folder=out)


def _complete(out: Path, decided: Mapping[str, Any]) -> Results | None:
    """The results in `out`, if they are those of this evaluation and none is unfinished."""
    if (out / UNFINISHED).exists():
        return None
    try:
        known = Results.load(out)
    except ResultsError:
        return None
    return known if known.identity == identity_of(decided) else None


def _open_journal(out: Path, decided: Mapping[str, Any], *, resume: bool, restart: bool) -> Journal:
    """The journal to go on with. Raises UserError if there is one that must not be lost."""
    written = out / UNFINISHED
    path = written / JOURNAL
    if resume:
        try:
            return Journal(path, decided)
        except JournalError:
            if not restart:
                raise
    elif not restart and (kept := kept_episodes(path)):
        raise UserError(
            f"{out}: keeps {kept} episodes of an evaluation that was interrupted; go on with "
            "--resume, or start over with --restart"
        )
    shutil.rmtree(written, ignore_errors=True)
    return Journal(path, decided)


def play(
    actor: Actor | Literal["expert", "random"],
    config: EvalConfig,
    episodes: Iterable[int],
    *,
    on_done: OnDone = lambda record: None,
    stats: RolloutStats | None = None,
    folder: Path | None = None,
    finished: Records | None = None,
) -> list[EpisodeRecord]:
    """Plays these episodes of every task: what `evaluate` does, in part.

    Films go to `folder`, by default `config.out`; nothing else is written. `finished` holds the
    records of episodes that were played before; what shared a batch with one that is missing is
    played again, to the same record. Raises what `evaluate` raises.
    """
    check_playable(actor, config)
    # raises if there is no cluster, so before films are deleted
    workers = _workers(actor, config)
    folder = folder or Path(config.out)
    finished = finished or {}
    jobs = _jobs(actor, config, list(episodes), folder)
    for job in jobs:
        # of an earlier evaluation in this folder: its film would be taken for that of this episode
        if (job.task, job.episode) not in finished:
            _film(folder, job.task, job.episode).unlink(missing_ok=True)
    return rollout(
        config.env,
        jobs,
        None if isinstance(actor, str) else actor,
        config.rollout_settings(workers=workers),
        on_done=on_done,
        stats=stats,
        finished=finished,
    )


def _workers(actor: Actor | Literal["expert", "random"], config: EvalConfig) -> int:
    if config.workers is not None:
        return config.workers
    if config.launcher == "ray":
        return cluster_workers(config.ray_address)
    return default_workers(actor)


def _jobs(
    actor: Actor | Literal["expert", "random"],
    config: EvalConfig,
    episodes: Sequence[int],
    folder: Path,
) -> list[Job]:
    """The episodes of every task, with films of the first and of failures."""
    jobs = []
    for task in config.env.suite().tasks:
        for episode in episodes:
            film = _film(folder, task.name, episode)
            # of task and number alone: all policies meet the same starts
            seed = episode_seed("eval", config.seed, task.name, episode)
            job = Job(
                task=task.name,
                group=task.group,
                episode=episode,
                seed=config.env.evaluation_seed(seed, episode),
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
    the policy, UserError if the options do not, RenderingError if pictures are needed and this
    machine cannot draw them.
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
        BatchedPolicy(actor, config.rollout_settings()).check(config.env.spec())
    elif actor not in BASELINES:
        raise ConfigError(
            [
                f"policy: {actor!r} is no baseline; give 'expert', 'random', or "
                f"load_policy({actor!r})"
            ]
        )
    # They go into the results. Asked for now, they tell before the first episode that a package is
    # missing or nothing can be drawn.
    config.env.versions()


def save_config(config: EvalConfig, folder: Path | None = None) -> Path:
    """Writes `eval.yaml` into `folder`, by default `config.out`, which is made if it is missing; ->
    the folder."""
    out = folder or Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / CONFIG_FILE, dump_config(config))
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
    folder: Path | None = None,
    identity: str = "",
) -> Results:
    """Chooses the films of failures and writes `results.json` and `episodes.parquet` into `folder`,
    by default `config.out`."""
    out = folder or Path(config.out)
    finish_installing(out)
    results = Results(
        policy=name,
        suite=config.env.suite().name,
        episodes=_with_failure_films(records, config, out),
        # by versions and config a comparison finds out whether two runs may be compared
        versions=versions_of(config),
        config=config.model_dump(mode="json"),
        command=command,
        seconds=seconds,
        folder=out,
        losses=tuple(losses),
        stopped_by=stopped_by,
        training=training or {},
        identity=identity,
    )
    results.save(out)
    return results


def _film(folder: Path, task: str, episode: int) -> Path:
    # absolute: workers may stand in another folder
    return folder.resolve() / VIDEOS / f"{task}-{episode:03d}.mp4"


def _with_failure_films(
    records: Sequence[EpisodeRecord], config: EvalConfig, folder: Path
) -> tuple[EpisodeRecord, ...]:
    """The records, with the first films of each kind of failure named; the surplus is deleted."""
    # Each worker has kept the first that it saw. Only here, where all records are, is it known
    # which come first by number: so the choice depends on no worker.
    wanted = representatives(records, config.failure_videos)
    named = []
    for record in records:
        file = _film(folder, record.task, record.episode)
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
    label = f"{title} on {suite.name}"
    # not among the results: scripts read the standard output
    console = output_console(stderr=True)
    with progress_bar(label, console=console, show=show, note="0 solved") as bar:
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
