"""Demonstrations and data of mixed quality: experts, disturbed on their way, and other behaviours make a dataset.

The dataset is a pure function of the config: not of the number of workers, nor of kills and resumes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vla.common.cores import usable_cores
from vla.config import ConfigError, check_config
from vla.data import DatasetWriter, Episode, EpisodeDataset
from vla.sim_eval.collection.collectors import Behaviours
from vla.sim_eval.collection.demonstrations import (
    CollectConfig,
    CollectError,
    Demonstrator,
    Job,
    Outcome,
    demonstrate,
)
from vla.sim_eval.collection.noise import Noise, NoiseConfig
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.workers.job_pool import run_ordered
from vla.sim_eval.workers.launchers import cluster_workers

MADE, MISSING = "made", "missing"
SECONDS_PER_COMMIT = 2.0
_console = Console(stderr=True)


def collect(config: CollectConfig, *, resume: bool = False) -> Path:
    """Makes the dataset and returns its folder.

    A killed collection keeps all episodes but those of the last seconds, and `resume=True` continues to the same
    dataset; it may also ask for more episodes per task than before. Worker processes are spawned: a script
    must call this under `if __name__ == "__main__":`.

    Raises:
        DataError: `out` holds a dataset and `resume` is False.
        ConfigError: `resume`, and the dataset was made with another config.
        CollectError: no episode of some task succeeded.
        CheckpointError, SpecError: a policy among the behaviours cannot be loaded or does not fit the env.
        WorkerError: an env raised or a worker died; the message names task, episode and seed.
        RenderingError: this machine cannot render.
    """
    check_config(config, CollectConfig)
    env: EnvConfig = config.env
    what = _what_is_made(config)
    if resume:
        _check_same(config.out, what)
    metadata = {"collect": what, "simulation": env.versions()}
    robot = str(getattr(env, "type", ""))
    with DatasetWriter(
        config.out,
        env.spec(),
        robot_type=robot,
        metadata=metadata,
        resume=resume,
        video=config.video,
    ) as writer:
        done = _done(config.out) if writer.num_episodes else set()
        jobs = [Job(task, i) for task in env.suite().tasks for i in range(config.episodes_per_task)]
        jobs = [job for job in jobs if (job.task.name, job.episode) not in done]
        most = config.workers or (
            cluster_workers(config.ray_address) if config.launcher == "ray" else usable_cores()
        )
        outcomes = run_ordered(
            functools.partial(Demonstrator, config),
            jobs,
            workers=min(most, max(1, len(jobs))),
            launcher=config.launcher,
            ray_address=config.ray_address,
        )
        counts = _write(writer, outcomes, len(jobs))
    _report(counts, {task for task, _ in done}, config)
    return config.out


def _write(
    writer: DatasetWriter, outcomes: Generator[Outcome, None, None], total: int
) -> Counter[tuple[str, str]]:
    """Writes the episodes as they come; counts (task, "made" | "missing" | failure of a try)."""
    text = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    counts: Counter[tuple[str, str]] = Counter()
    frames, group = 0, _Group(writer)
    with Progress(*text, TimeElapsedColumn(), TimeRemainingColumn(), console=_console) as progress:
        bar = progress.add_task("collecting", total=total, speed="")
        with contextlib.closing(outcomes):
            try:
                for outcome in outcomes:
                    if outcome.episode is not None:
                        group.add(outcome.episode)
                        frames += len(outcome.episode)
                    task = outcome.job.task.name
                    counts[task, MISSING if outcome.episode is None else MADE] += 1
                    counts.update((task, failure) for failure in outcome.failures)
                    speed = f"{frames / max(progress.tasks[0].elapsed or 0.0, 1e-9):.0f} frames/s"
                    progress.update(bar, advance=1, description=task, speed=speed)
            finally:
                group.write()
    return counts


class _Group:
    """Episodes that are written together: a commit costs about the same for one as for a second's worth."""

    def __init__(self, writer: DatasetWriter) -> None:
        self._writer, self._episodes, self._since = writer, list[Episode](), time.monotonic()

    def add(self, episode: Episode) -> None:
        self._episodes.append(episode)
        if time.monotonic() - self._since > SECONDS_PER_COMMIT:
            self.write()

    def write(self) -> None:
        episodes, self._episodes = self._episodes, []
        self._writer.add_episodes(episodes)
        self._since = time.monotonic()


def _report(
    counts: Counter[tuple[str, str]], had_episodes: set[str], config: CollectConfig
) -> None:
    """Tells how often experts failed. Raises CollectError where a task is left without any episode."""
    for task in dict.fromkeys(task for task, _ in counts):
        failures = {
            what: n
            for (name, what), n in counts.items()
            if name == task and what not in (MADE, MISSING)
        }
        how = ", ".join(f"{what} {n}" for what, n in sorted(failures.items()))
        if not counts[task, MADE] and task not in had_episodes:
            raise CollectError(
                f"task {task!r}: the expert succeeded in none of {sum(failures.values())} tries ({how}): lower noise.std, "
                f"raise env.horizon or max_tries ({config.max_tries}), or set only_successes=false"
            )
        if failures:
            missing = (
                f"; {counts[task, MISSING]} episodes are missing" if counts[task, MISSING] else ""
            )
            _console.print(f"{task}: {sum(failures.values())} tries failed ({how}){missing}")


# --- resuming ---------------------------------------------------------------------------------------


def _what_is_made(config: CollectConfig) -> dict[str, Any]:
    """The part of the config that decides what an episode holds, and the checkpoints that act.

    Raises what `Behaviours.check` raises."""
    what = config.model_dump(
        mode="json",
        exclude={"out", "workers", "launcher", "ray_address", "episodes_per_task", "version"},
    )
    if config.behaviours.expert_alone:
        del what["behaviours"]
    else:
        what["behaviours"]["checkpoints"] = Behaviours(config.behaviours).check(config.env)
    return what


def _check_same(out: Path, what: dict[str, Any]) -> None:
    path = out / "meta" / "vla_metadata.json"
    if not path.exists():
        return
    before, now = _flat(json.loads(path.read_text()).get("collect", what)), _flat(what)
    lines = [
        f"{key}: is {now.get(key)!r}, but {out} was collected with {before.get(key)!r}; set it back or choose another out"
        for key in sorted(set(before) | set(now))
        if before.get(key) != now.get(key)
    ]
    if lines:
        raise ConfigError(lines)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _done(out: Path) -> set[tuple[str, int]]:
    infos = (json.loads(info) for info in EpisodeDataset(out).episodes["info"])
    return {(info["task"], info["episode"]) for info in infos}


__all__ = [
    "CollectConfig",
    "CollectError",
    "Demonstrator",
    "Job",
    "Noise",
    "NoiseConfig",
    "Outcome",
    "collect",
    "demonstrate",
]
