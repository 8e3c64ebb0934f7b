"""Demonstrations: scripted experts, disturbed on their way, make a dataset.

Noise follows the idea of DART (Laskey et al. 2017): now and then the executed action is disturbed for a few
steps, while the recorded action is the expert's clean one. So the data shows how to come back from states
that the expert alone would never visit.

The dataset is a pure function of the config: not of the number of workers, nor of kills and resumes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vla.config import Choice, Config, ConfigError, RootConfig, UserError
from vla.data import DatasetWriter, Episode, EpisodeDataset, encode_png
from vla.sim_eval.env import EnvConfig, SimEnv, Task
from vla.sim_eval.launchers import Launcher, cluster_workers, run_jobs
from vla.sim_eval.seeding import episode_seed
from vla.types import Spec

MADE, MISSING = "made", "missing"
SECONDS_PER_COMMIT = 2.0
_console = Console(stderr=True)


class CollectError(UserError):
    """The experts could not make the demonstrations that were asked for."""


class NoiseConfig(Config):
    """Bursts of Gaussian noise on the executed actions, and of random actions in place of the expert's."""

    std: Annotated[float, Field(ge=0.0, le=2.0)] = 0.4
    """Standard deviation, in units of half an action dimension's range; 0 turns noise off."""
    probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Chance at each undisturbed step that a burst begins."""
    duration: Annotated[int, Field(ge=1)] = 5
    """Steps of a burst. All of them share one draw: noise that changes at each step would lead nowhere."""
    random_shares: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] = Field(default=(0.0,), min_length=1)
    """Share of the time, in bursts, in which a random action is executed in place of the expert's: every episode draws
    one of these, from 0 (the expert) to 1 (chance). For data of mixed quality; record what is executed."""
    spared: tuple[str, ...] = ("gripper",)
    """Action dimensions without noise, by name; an open gripper drops what the expert has picked up."""


class CollectConfig(RootConfig):
    """What `vla collect` does."""

    env: Annotated[Any, Choice("envs")]
    """The tasks and what is seen of them."""
    out: Path
    """Folder of the dataset."""
    episodes_per_task: Annotated[int, Field(ge=1)] = 50
    """Demonstrations of each task."""
    seed: Annotated[int, Field(ge=0)] = 0
    """With the task and the episode's number it gives the start; evaluations never start alike."""
    noise: NoiseConfig = NoiseConfig()
    """Disturbance of the expert."""
    actions: Literal["expert", "executed"] = "expert"
    """What is recorded: the expert's clean action (imitation), or what was executed (offline RL, whose
    rewards must belong to the actions)."""
    only_successes: bool = True
    """Leave out episodes that never succeed, and try again from another start."""
    max_tries: Annotated[int, Field(ge=1)] = 10
    """Starts to try for one episode."""
    after_success_steps: Annotated[int, Field(ge=0)] = 0
    """Steps to keep after the first success. Evaluation ends there, so none are needed to imitate."""
    paraphrases: Literal["primary", "all"] = "primary"
    """Instruct each episode by the task's primary text, or by one drawn from all its texts."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Workers; by default one for each core that this process may use, or for each CPU of the Ray cluster."""
    launcher: Launcher = "local"
    """Where the workers run: "local" for this machine, "ray" for the Ray cluster at `ray_address`. The dataset is the
    same."""
    ray_address: str = "auto"
    """host:port of a Ray cluster; "auto" finds the one that `ray start` has started on this machine."""


@dataclass(frozen=True)
class Job:
    """One demonstration to be made."""

    task: Task
    episode: int

    def __str__(self) -> str:
        return f"task {self.task.name!r}, episode {self.episode}"


@dataclass(frozen=True)
class Outcome:
    """What came of a job: `episode` is None where all tries failed; `failures` says how, try by try."""

    job: Job
    episode: Episode | None
    failures: tuple[str, ...]


def collect(config: CollectConfig, *, resume: bool = False) -> Path:
    """Makes the dataset and returns its folder.

    A killed collection keeps all episodes but those of the last seconds, and `resume=True` continues to the same
    dataset; it may also ask for more episodes per task than before. Worker processes are spawned: a script
    must call this under `if __name__ == "__main__":`.

    Raises:
        DataError: `out` holds a dataset and `resume` is False.
        ConfigError: `resume`, and the dataset was made with another config.
        CollectError: no episode of some task succeeded.
        WorkerError: an env raised or a worker died; the message names task, episode and seed.
        RenderingError: this machine cannot render.
    """
    env: EnvConfig = config.env
    what = _what_is_made(config)
    if resume:
        _check_same(config.out, what)
    metadata = {"collect": what, "simulation": env.versions()}
    robot = str(getattr(env, "type", ""))
    with DatasetWriter(config.out, env.spec(), robot_type=robot, metadata=metadata, resume=resume) as writer:
        done = _done(config.out) if writer.num_episodes else set()
        jobs = [Job(task, i) for task in env.suite().tasks for i in range(config.episodes_per_task)]
        jobs = [job for job in jobs if (job.task.name, job.episode) not in done]
        most = config.workers or (cluster_workers(config.ray_address) if config.launcher == "ray" else _cores())
        outcomes = run_jobs(
            config.launcher,
            functools.partial(Demonstrator, config),
            jobs,
            workers=min(most, max(1, len(jobs))),
            ray_address=config.ray_address,
        )
        counts = _write(writer, outcomes, len(jobs))
    _report(counts, {task for task, _ in done}, config)
    return config.out


def _write(writer: DatasetWriter, outcomes: Generator[Outcome, None, None], total: int) -> Counter[tuple[str, str]]:
    """Writes the episodes as they come; counts (task, "made" | "missing" | failure of a try)."""
    text = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}")
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


def _report(counts: Counter[tuple[str, str]], had_episodes: set[str], config: CollectConfig) -> None:
    """Tells how often experts failed. Raises CollectError where a task is left without any episode."""
    for task in dict.fromkeys(task for task, _ in counts):
        failures = {what: n for (name, what), n in counts.items() if name == task and what not in (MADE, MISSING)}
        how = ", ".join(f"{what} {n}" for what, n in sorted(failures.items()))
        if not counts[task, MADE] and task not in had_episodes:
            raise CollectError(
                f"task {task!r}: the expert succeeded in none of {sum(failures.values())} tries ({how}): lower noise.std, "
                f"raise env.horizon or max_tries ({config.max_tries}), or set only_successes=false"
            )
        if failures:
            missing = f"; {counts[task, MISSING]} episodes are missing" if counts[task, MISSING] else ""
            _console.print(f"{task}: the expert failed in {sum(failures.values())} tries ({how}){missing}")


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- resuming ---------------------------------------------------------------------------------------


def _what_is_made(config: CollectConfig) -> dict[str, Any]:
    """The part of the config that decides what an episode holds."""
    return config.model_dump(
        mode="json", exclude={"out", "workers", "launcher", "ray_address", "episodes_per_task", "version"}
    )


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
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _done(out: Path) -> set[tuple[str, int]]:
    infos = (json.loads(info) for info in EpisodeDataset(out).episodes["info"])
    return {(info["task"], info["episode"]) for info in infos}


# --- in the workers ---------------------------------------------------------------------------------


class Demonstrator:
    """Makes demonstrations in the process that runs it. Keeps the env while the task stays."""

    def __init__(self, config: CollectConfig) -> None:
        self.config = config
        self._env: SimEnv | None = None

    def __call__(self, job: Job) -> Outcome:
        env = self._env_of(job.task)
        failures: list[str] = []
        for attempt in range(self.config.max_tries):
            seed = episode_seed("collect", self.config.seed, job.task.name, job.episode, attempt)
            try:
                episode, failure = demonstrate(env, self.config, seed)
            except Exception as error:
                raise CollectError(
                    f"seed {seed}: the env or its expert raised {type(error).__name__}: {error}"
                ) from error
            if failure:
                failures.append(failure)
            if not failure or not self.config.only_successes:
                info = episode.info | {"task": job.task.name, "episode": job.episode, "tries": attempt + 1}
                return Outcome(job, dataclasses.replace(episode, info=info), tuple(failures))
        return Outcome(job, None, tuple(failures))

    def _env_of(self, task: Task) -> SimEnv:
        if self._env is None or self._env.task.name != task.name:
            self.close()
            self._env = self.config.env.make(task.name)
        return self._env

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None


def demonstrate(env: SimEnv, config: CollectConfig, seed: int) -> tuple[Episode, str]:
    """One episode of the expert -> (episode, failure); the failure is empty if the task was solved."""
    rng = np.random.default_rng((seed, 1))  # the env draws its start from (seed)
    noise = Noise(config.noise, env.spec_, rng)
    observation, info = env.reset(seed=seed)
    frames: dict[str, list[bytes]] = {camera: [] for camera in env.spec_.cameras}
    states: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    successes: list[bool] = []
    solved = terminated = over = False
    left, ends_at_success = config.after_success_steps, env.task.ends_at_success
    while not over:
        for camera, images in frames.items():
            images.append(encode_png(observation["images"][camera]))
        clean = env.expert_action()
        executed = noise.disturb(clean)
        states.append(observation["state"])
        actions.append(clean if config.actions == "expert" else executed)
        observation, reward, terminated, truncated, info = env.step(executed)
        rewards.append(float(reward))
        successes.append(bool(info["success"]))
        solved = solved or successes[-1]
        over = terminated or truncated or (solved and ends_at_success and left == 0)
        left -= solved
    texts = (str(info["instruction"]), *env.paraphrases())
    episode = Episode(
        images=dict(frames),
        state=np.asarray(states, dtype=np.float32),
        actions=np.asarray(actions, dtype=np.float32),
        rewards=np.asarray(rewards, dtype=np.float32),
        success=np.asarray(successes, dtype=bool),
        terminated=bool(terminated or (solved and ends_at_success)),
        instruction=texts[rng.integers(len(texts))] if config.paraphrases == "all" else texts[0],
        info={
            "seed": seed,
            "noisy_steps": noise.noisy_steps,
            **({"random_share": noise.random_share} if config.noise.random_shares != (0.0,) else {}),
            **({"expert": env.expert_name} if env.expert_name else {}),
        },
    )
    return episode, "" if solved else str(info.get("failure") or "time limit")


class Noise:
    """Bursts: at each undisturbed step one may begin; through it, one Gaussian draw is added to the action, or one
    random action is executed in its place."""

    def __init__(self, config: NoiseConfig, spec: Spec, rng: np.random.Generator) -> None:
        self.config, self._rng = config, rng
        self._low, self._high = np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32)
        spared = np.array([name in config.spared for name in spec.action_names])
        self._spared, self._scale = spared, np.where(spared, 0.0, config.std * (self._high - self._low) / 2)
        self._left = self._until_draw = 0
        shares = config.random_shares
        self.random_share = shares[rng.integers(len(shares))] if len(shares) > 1 else shares[0]
        self._instead: np.ndarray | None = None
        self.noisy_steps = 0

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """The action to execute, inside the spec's bounds."""
        if self.random_share:
            if not self._until_draw:
                self._until_draw = self.config.duration
                drawn = self._rng.random() < self.random_share
                self._instead = self._rng.uniform(self._low, self._high).astype(np.float32) if drawn else None
            self._until_draw -= 1
            if self._instead is not None:
                self.noisy_steps += 1
                executed = np.where(self._spared, action, self._instead)
                return np.clip(executed, self._low, self._high).astype(np.float32)
        if self.config.std and not self._left and self._rng.random() < self.config.probability:
            self._left = self.config.duration
            self._offset = self._rng.normal(size=action.shape) * self._scale
        if not self._left:
            return action
        self._left -= 1
        self.noisy_steps += 1
        return np.clip(action + self._offset, self._low, self._high).astype(np.float32)
