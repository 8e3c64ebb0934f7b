"""Demonstrations and data of mixed quality, written to a dataset.

The dataset is a pure function of the config: not of the number of workers, nor of kills and
resumes.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

from vla.common.cores import usable_cores
from vla.common.folder_lock import refuse_if_in_use
from vla.common.progress import progress_bar
from vla.common.terminal.consoles import output_console
from vla.config import ConfigError, check_config
from vla.data import DatasetWriter, Episode, EpisodeDataset, schema
from vla.data.episode import read_info
from vla.data.extras import ACTION_CHUNK, VALID_ACTIONS
from vla.data.resuming import read_metadata
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
# What changes where a collection runs and how long it is, but not what an episode holds.
FREE_KEYS = {"out", "workers", "launcher", "ray_address", "episodes_per_task", "version"}
_console = output_console(stderr=True)


def collect(config: CollectConfig, *, resume: bool = False) -> Path:
    """Makes the dataset and returns its folder.

    A killed collection keeps all episodes but those of the last seconds, and `resume=True`
    continues to the same dataset; it may also ask for more episodes per task than before. Worker
    processes are spawned: a script must call this under `if __name__ == "__main__":`.

    Raises:
        DataError: `out` holds a dataset and `resume` is False.
        FolderInUseError: another process writes to `out`.
        ConfigError: `resume`, and the dataset was made with another config.
        CollectError: no episode of some task succeeded.
        CheckpointError, SpecError: a policy among the behaviours cannot be loaded or does not fit
            the env.
        WorkerError: an env raised or a worker died; the message names task, episode and seed.
        RenderingError: this machine cannot render.
    """
    check_config(config, CollectConfig)
    refuse_if_in_use(config.out)
    env: EnvConfig = config.env
    config = config.model_copy(update={"label_chunk": _label_chunk(config)})
    what = _what_is_made(config)
    if resume:
        _check_labels(config)
        _check_same(config.out, what)
    with DatasetWriter(
        config.out,
        env.spec(),
        robot_type=str(what["env"].get("type", "")),
        metadata={"collect": what, "simulation": env.versions()},
        resume=resume,
        video=config.video,
    ) as writer:
        done = _done(config.out) if writer.num_episodes else set()
        # task by task: a worker builds an env for each task, which may take seconds
        jobs = [
            Job(task, number)
            for task in env.suite().tasks
            for number in range(config.episodes_per_task)
            if (task.name, number) not in done
        ]
        outcomes = run_ordered(
            functools.partial(Demonstrator, config),
            jobs,
            workers=min(_most_workers(config), max(1, len(jobs))),
            launcher=config.launcher,
            ray_address=config.ray_address,
        )
        counts = _write(writer, outcomes, len(jobs))
    _report(counts, {task for task, _ in done}, config)
    return config.out


def _label_chunk(config: CollectConfig) -> int:
    """How many actions the expert labels at a step. Raises ConfigError if it cannot so many."""
    wanted = config.label_chunk
    if not config.labels_policies:
        if wanted is not None:
            raise ConfigError(
                [
                    "label_chunk: is for states that policies visit and the expert labels; leave "
                    "it out, or set actions=expert and name a policy in behaviours.policies"
                ]
            )
        return 1
    if wanted == 1:
        return 1
    task = config.env.suite().tasks[0].name
    with contextlib.closing(config.env.make(task)) as env:
        env.reset(seed=0)
        plays_ahead = bool(env.changing_parts())
    if wanted is not None and not plays_ahead:
        raise ConfigError(
            [
                "label_chunk: this env cannot be put back after the expert has played on (it has "
                "no changing_parts); set label_chunk=1"
            ]
        )
    return wanted or (Behaviours(config.behaviours).longest_chunk() if plays_ahead else 1)


def _most_workers(config: CollectConfig) -> int:
    if config.workers is not None:
        return config.workers
    return cluster_workers(config.ray_address) if config.launcher == "ray" else usable_cores()


def _write(
    writer: DatasetWriter, outcomes: Generator[Outcome, None, None], total: int
) -> Counter[tuple[str, str]]:
    """Writes the episodes as they come; counts (task, "made" | "missing" | failure of a try)."""
    counts: Counter[tuple[str, str]] = Counter()
    frames = 0
    started = time.monotonic()
    # from the inside out: what came is written, then the workers are ended, then the bar is closed
    with (
        progress_bar("collecting", console=_console, note="") as bar,
        contextlib.closing(outcomes),
        _CommitBuffer(writer) as buffer,
    ):
        bar(0, total)
        for done, outcome in enumerate(outcomes, start=1):
            task = outcome.job.task.name
            counts[task, MISSING if outcome.episode is None else MADE] += 1
            counts.update((task, failure) for failure in outcome.failures)
            if outcome.episode is not None:
                buffer.add(outcome.episode)
                frames += len(outcome.episode)
            speed = frames / max(time.monotonic() - started, 1e-9)
            bar(done, total, label=f"collecting {task}", note=f"{speed:.0f} frames/s")
    return counts


class _CommitBuffer:
    """Episodes that are written together: a commit costs about the same for one as for many.

    Leaving it writes what it holds, also when an error or Ctrl-C ends the collection.
    """

    def __init__(self, writer: DatasetWriter) -> None:
        self._writer = writer
        self._episodes: list[Episode] = []
        self._since = time.monotonic()

    def __enter__(self) -> _CommitBuffer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._write()

    def add(self, episode: Episode) -> None:
        self._episodes.append(episode)
        # a kill loses what is held here, so it is held for seconds only
        if time.monotonic() - self._since > SECONDS_PER_COMMIT:
            self._write()

    def _write(self) -> None:
        # taken out first: if writing fails, leaving must not try it again
        episodes = self._episodes
        self._episodes = []
        self._writer.add_episodes(episodes)
        self._since = time.monotonic()


def _report(
    counts: Counter[tuple[str, str]],
    had_episodes: set[str],
    config: CollectConfig,
) -> None:
    """Says how often experts failed. Raises CollectError if a task is left without any episode."""
    for task in dict.fromkeys(task for task, _ in counts):
        failures = {
            what: count
            for (name, what), count in counts.items()
            if name == task and what not in (MADE, MISSING)
        }
        tries = sum(failures.values())
        how = ", ".join(f"{what} {count}" for what, count in sorted(failures.items()))
        if not counts[task, MADE] and task not in had_episodes:
            raise CollectError(
                f"task {task!r}: the expert succeeded in none of {tries} tries ({how}): lower "
                f"noise.std, raise env.horizon or max_tries ({config.max_tries}), or set "
                "only_successes=false"
            )
        if failures:
            missing = counts[task, MISSING]
            note = f"; {missing} episodes are missing" if missing else ""
            _console.print(f"{task}: {tries} tries failed ({how}){note}")


# --- resuming ------------------------------------------------------------------------------------


def _what_is_made(config: CollectConfig) -> dict[str, Any]:
    """The part of the config that decides what an episode holds, and the checkpoints that act.

    Raises what `Behaviours.check` raises.
    """
    what = config.model_dump(mode="json", exclude=FREE_KEYS)
    if config.label_chunk == 1:
        # as in datasets from before the expert labelled chunks
        del what["label_chunk"]
    if not config.noise.scales:
        # as in datasets from before there was the key
        del what["noise"]["scales"]
    if config.behaviours.expert_alone:
        # as in datasets from before there were behaviours, which can be resumed
        del what["behaviours"]
    else:
        what["behaviours"]["checkpoints"] = Behaviours(config.behaviours).check(config.env)
        # what is off stands in no dataset, so that those from before there was the key can be
        # resumed
        if config.behaviours.detours is None:
            del what["behaviours"]["detours"]
        if not any(what["behaviours"]["halves"].values()):
            del what["behaviours"]["halves"]
        for policy in what["behaviours"]["policies"]:
            if policy["takeover"] is None:
                del policy["takeover"]
    return what


def _check_same(out: Path, what: dict[str, Any]) -> None:
    """Raises ConfigError with every key whose value is not that of the dataset in `out`."""
    if not (out / schema.METADATA).exists():
        return
    # a dataset of other origin says nothing: whatever is asked for is the same then
    made = read_metadata(out).get("collect", what)
    before = _flat(made if isinstance(made, dict) else {})
    now = _flat(what)
    lines = []
    for key in sorted({*before, *now}):
        had, has = before.get(key), now.get(key)
        if had != has:
            lines.append(
                f"{key}: is {has!r}, but {out} was collected with {had!r}; set it back or choose "
                "another out"
            )
    if lines:
        raise ConfigError(lines)


def _check_labels(config: CollectConfig) -> None:
    """Raises ConfigError if what policies did was recorded in `out` in place of labels."""
    if not config.labels_policies or not (config.out / "meta" / "info.json").exists():
        return
    dataset = EpisodeDataset(config.out)
    if not len(dataset):
        return
    if VALID_ACTIONS not in dataset.columns.extras:
        raise ConfigError(
            [
                f"actions: {config.out} holds the policies' own actions, from a version that "
                "recorded them for 'expert'; choose another out"
            ]
        )
    if config.label_chunk != 1 and ACTION_CHUNK not in dataset.columns.extras:
        raise ConfigError(
            [
                f"label_chunk: {config.out} holds one label for each step; set label_chunk=1 or "
                "choose another out"
            ]
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"noise": {"std": 0.4}} -> {"noise.std": 0.4}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _done(out: Path) -> set[tuple[str, int]]:
    """(task, number) of the episodes that the dataset holds."""
    done: set[tuple[str, int]] = set()
    for text in EpisodeDataset(out).episodes["info"]:
        info = read_info(text)
        task, number = info.get("task"), info.get("episode")
        if not isinstance(task, str) or not isinstance(number, int):
            raise ConfigError(
                [f"out: {out} holds episodes that `vla collect` did not record; choose another out"]
            )
        done.add((task, number))
    return done


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
