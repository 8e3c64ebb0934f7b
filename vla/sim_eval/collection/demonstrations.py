"""One episode after the other for a dataset: who acts, what disturbs it, what is recorded.

An episode is a pure function of the config and of its task and number.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from vla.config import Choice, RootConfig, UserError
from vla.data import Episode, VideoConfig, encode_png
from vla.sim_eval.collection.collectors import Behaviours, BehavioursConfig
from vla.sim_eval.collection.noise import Noise, NoiseConfig
from vla.sim_eval.env import SimEnv, Task
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.workers.launchers import Launcher


class CollectError(UserError):
    """The experts could not make the demonstrations that were asked for."""


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
    behaviours: BehavioursConfig = BehavioursConfig()
    """Who acts in place of the expert, for data of mixed quality."""
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
    video: VideoConfig | None = None
    """Store cameras as video, smaller than images and not without loss; null stores images. `video.codec=h264` is enough."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Workers; by default one for each core that this process may use, or for each CPU of the Ray cluster."""
    launcher: Launcher = "local"
    """Where the workers run: "local" for this machine, "ray" for the Ray cluster at `ray_address`. The dataset is the
    same."""
    ray_address: str = "auto"
    """host:port of a Ray cluster; "auto" finds the one that `ray start` has started on this machine."""

    @model_validator(mode="after")
    def _mistakes_are_kept(self) -> CollectConfig:
        if self.behaviours.mistaken and self.only_successes:
            raise ValueError(
                "behaviours.mistaken: needs only_successes: false, for such episodes fail"
            )
        return self


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


class Demonstrator:
    """Makes demonstrations in the process that runs it. Keeps the env while the task stays."""

    def __init__(self, config: CollectConfig) -> None:
        self.config = config
        self._behaviours = Behaviours(config.behaviours)
        self._env: SimEnv | None = None

    def __call__(self, job: Job) -> Outcome:
        env = self._env_of(job.task)
        failures: list[str] = []
        for attempt in range(self.config.max_tries):
            seed = episode_seed("collect", self.config.seed, job.task.name, job.episode, attempt)
            try:
                episode, failure = demonstrate(env, self.config, seed, self._behaviours)
            except Exception as error:
                raise CollectError(
                    f"seed {seed}: the env or who acts in it raised {type(error).__name__}: {error}"
                ) from error
            if failure:
                failures.append(failure)
            if not failure or not self.config.only_successes:
                info = episode.info | {
                    "task": job.task.name,
                    "episode": job.episode,
                    "tries": attempt + 1,
                }
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


def demonstrate(
    env: SimEnv, config: CollectConfig, seed: int, behaviours: Behaviours | None = None
) -> tuple[Episode, str]:
    """One episode -> (episode, failure); the failure is empty if the task was solved.

    behaviours: those of `config`, kept from episode to episode.
    """
    rng = np.random.default_rng((seed, 1))  # the env draws its start from (seed)
    noise = Noise(config.noise, env.robot_spec, rng)
    observation, info = env.reset(seed=seed)
    behaviour = (behaviours or Behaviours(config.behaviours)).begin(
        env, str(info["instruction"]), seed
    )
    achieved = _Achieved(env, watch=not config.only_successes)
    frames: dict[str, list[bytes]] = {camera: [] for camera in env.robot_spec.cameras}
    states: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    successes: list[bool] = []
    solved = terminated = gave_up = over = False
    left, ends_at_success = config.after_success_steps, env.task.ends_at_success
    while not over:
        for camera, images in frames.items():
            images.append(encode_png(observation["images"][camera]))
        clean = behaviour.act(observation, rewards[-1] if rewards else 0.0)
        executed = noise.disturb(clean) if behaviour.disturbed else clean
        states.append(observation["state"])
        actions.append(clean if config.actions == "expert" else executed)
        observation, reward, terminated, truncated, info = env.step(executed)
        rewards.append(float(reward))
        successes.append(bool(info["success"]))
        achieved.look(len(rewards) - 1)
        solved = solved or successes[-1]
        gave_up = (
            behaviour.acted in achieved.first
        )  # who believes to be done ends the task: a true end, and a failure
        over = terminated or truncated or gave_up or (solved and ends_at_success and left == 0)
        left -= solved
    texts, mixed = (
        (str(info["instruction"]), *env.paraphrases()),
        config.noise.random_shares != (0.0,),
    )
    episode = Episode(
        images=dict(frames),
        state=np.asarray(states, dtype=np.float32),
        actions=np.asarray(actions, dtype=np.float32),
        rewards=np.asarray(rewards, dtype=np.float32),
        success=np.asarray(successes, dtype=bool),
        terminated=bool(terminated or gave_up or (solved and ends_at_success)),
        instruction=texts[rng.integers(len(texts))] if config.paraphrases == "all" else texts[0],
        info={
            "seed": seed,
            "noisy_steps": noise.noisy_steps,
            **({"random_share": noise.random_share} if mixed and behaviour.disturbed else {}),
            **({"expert": env.expert_name} if env.expert_name else {}),
            **({} if config.behaviours.expert_alone else behaviour.info),
            **({"achieved": json.dumps(achieved.first)} if achieved.first and not solved else {}),
        },
    )
    return episode, "" if solved else str(info.get("failure") or "time limit")


class _Achieved:
    """The steps after which instructions of the scene were first fulfilled, whatever was asked.

    Attributes:
        first: instruction -> step; without those that were fulfilled at the start.
    """

    def __init__(self, env: SimEnv, *, watch: bool) -> None:
        self._env, self._watch = env, watch
        self._before = env.achieved() if watch else frozenset()
        self.first: dict[str, int] = {}

    def look(self, step: int) -> None:
        if self._watch:
            for text in sorted(self._env.achieved() - self._before):
                self.first.setdefault(text, step)
