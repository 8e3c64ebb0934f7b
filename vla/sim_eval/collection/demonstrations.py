"""One episode after the other for a dataset: what acts, what disturbs it, what is recorded.

An episode is a pure function of the config and of its task and number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from vla.config import Choice, ConfigPath, RootConfig, UserError
from vla.config.numbers import Seed
from vla.data import Episode, VideoConfig
from vla.data.episode import Scalar
from vla.data.extras import ACTION_CHUNK, INTERVENTION, VALID_ACTIONS
from vla.sim_eval.collection.collectors import Behaviour, Behaviours, BehavioursConfig
from vla.sim_eval.collection.noise import Noise, NoiseConfig
from vla.sim_eval.env import SimEnv, Task
from vla.sim_eval.gates.stuck import StuckConfig
from vla.sim_eval.rollouts.episode_recorder import EpisodeRecorder, privileged_extras
from vla.sim_eval.rollouts.expert_labels import expert_chunk, expert_label, valid_actions
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.workers.launchers import Launcher


class CollectError(UserError):
    """The experts could not make the demonstrations that were asked for."""


class CollectConfig(RootConfig):
    """What `vla collect` does."""

    env: Annotated[Any, Choice("envs")]
    """The tasks and what is seen of them."""
    out: ConfigPath
    """Folder of the dataset."""
    episodes_per_task: int = Field(default=50, ge=1)
    """Demonstrations of each task."""
    seed: Seed = 0
    """With the task and the episode's number it gives the start; evaluations never start alike."""
    noise: NoiseConfig = NoiseConfig()
    """Disturbance of the expert."""
    behaviours: BehavioursConfig = BehavioursConfig()
    """What acts in place of the expert, for data of mixed quality."""
    actions: Literal["expert", "executed"] = "expert"
    """What is recorded: the expert's clean action (imitation), or what was executed (offline RL,
    whose rewards must belong to the actions). Where a policy of `behaviours` acts, `expert` is what
    the expert would do in its state (DAgger); the column `valid_actions` then says how far the
    labels of a chunk follow each other."""
    label_chunk: int | None = Field(default=None, ge=1, le=10_000)
    """How many actions the expert labels in each state that a policy visits: it plays on in the
    simulator, which is then put back. null: as many as the policies plan at once, where the env can
    be put back; else 1."""
    only_successes: bool = True
    """Leave out episodes that never succeed, and try again from another start."""
    max_tries: int = Field(default=10, ge=1)
    """Starts to try for one episode."""
    after_success_steps: int = Field(default=0, ge=0)
    """Steps to keep after the first success. Evaluation ends there, so none are needed to
    imitate."""
    stop_if_stuck: StuckConfig | None = None
    """End an episode, as a time limit does, where nothing has moved for so long: the late states of
    a policy that is stuck are worth nothing. null plays on."""
    paraphrases: Literal["primary", "all"] = "primary"
    """Instruct each episode by the task's primary text, or by one drawn from all its texts."""
    video: VideoConfig | None = None
    """Store cameras as video, smaller than images and not without loss; null stores images.
    `video.codec=h264` is enough."""
    workers: int | None = Field(default=None, ge=1)
    """Workers; by default one for each core that this process may use, or for each CPU of the Ray
    cluster."""
    launcher: Launcher = "local"
    """Where the workers run: "local" for this machine, "ray" for the Ray cluster at `ray_address`.
    The dataset is the same."""
    ray_address: str = "auto"
    """host:port of a Ray cluster; "auto" finds the one that `ray start` has started on this
    machine."""

    @model_validator(mode="after")
    def _failures_are_kept(self) -> CollectConfig:
        failing = self.behaviours.failing
        if failing and self.only_successes:
            raise ValueError(
                f"behaviours.{failing[0]}: needs only_successes: false, for such episodes fail"
            )
        watched = any(p.takeover and p.takeover.needs_person for p in self.behaviours.policies)
        if watched and (self.workers != 1 or self.launcher != "local"):
            raise ValueError(
                "workers: a person watches one episode at a time, in this process; set workers=1 "
                "and launcher=local"
            )
        return self

    @property
    def labels_policies(self) -> bool:
        """Whether the expert's answers are recorded in the states that policies visit."""
        return self.actions == "expert" and bool(self.behaviours.policies)


@dataclass(frozen=True)
class Job:
    """One demonstration to be made."""

    task: Task
    episode: int

    def __str__(self) -> str:
        return f"task {self.task.name!r}, episode {self.episode}"


@dataclass(frozen=True)
class Outcome:
    """What came of a job: `episode` is None if all tries failed; `failures` says how each did."""

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
        """Raises CollectError if the env, or what acts in it, raises."""
        env = self._env_of(job.task)
        failures: list[str] = []
        task = job.task.name
        for attempt in range(self.config.max_tries):
            seed = episode_seed("collect", self.config.seed, task, job.episode, attempt)
            try:
                episode, failure = demonstrate(env, self.config, seed, self._behaviours)
            except UserError as error:
                raise CollectError(f"seed {seed}: {error}") from error
            except Exception as error:
                raise CollectError(
                    f"seed {seed}: the env or who acts in it raised {type(error).__name__}: {error}"
                ) from error
            if failure:
                failures.append(failure)
            if not failure or not self.config.only_successes:
                # what resuming looks for: which episode of which task this is
                of_job: dict[str, Scalar] = {
                    "task": task,
                    "episode": job.episode,
                    "tries": attempt + 1,
                }
                episode = dataclasses.replace(episode, info=episode.info | of_job)
                return Outcome(job, episode, tuple(failures))
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
    behaviours = behaviours or Behaviours(config.behaviours)
    # the env draws its start from (seed): with a stream of its own, noise does not change the start
    rng = np.random.default_rng((seed, 1))
    noise = Noise(config.noise, env.robot_spec, rng)
    start = env.reset(seed=seed)
    # who acts may hold the terminal, which is given back also if the env raises
    with contextlib.closing(behaviours.begin(env, seed)) as behaviour:
        played = _play(env, config, behaviour, noise, start)
    instructions = played.steps.recorder.instructions
    # paraphrases say the instruction of the whole episode: a part of it keeps its own words
    if config.paraphrases == "all" and len(set(instructions)) == 1:
        texts = (instructions[-1], *env.paraphrases())
        instructions = [texts[rng.integers(len(texts))]] * len(instructions)
    facts = _info(env, config, seed, noise, behaviour)
    if played.achieved and played.failure:
        # hindsight labels: what failed at this has solved something else
        facts["achieved"] = json.dumps(played.achieved)
    episode = played.steps.episode(
        terminated=played.terminated, info=facts, instructions=instructions
    )
    return episode, played.failure


@dataclass(frozen=True)
class _Played:
    """What came of an episode.

    Attributes:
        steps: what was recorded.
        achieved: instruction -> the step after which it was first fulfilled.
        terminated: whether it has truly ended; a time limit is no terminal: values go on behind it.
        failure: empty if the task was solved.
    """

    steps: _Steps
    achieved: dict[str, int]
    terminated: bool
    failure: str


def _play(
    env: SimEnv,
    config: CollectConfig,
    behaviour: Behaviour,
    noise: Noise,
    start: tuple[dict[str, Any], dict[str, Any]],
) -> _Played:
    """Plays the episode that `start`, the env's reset, has begun."""
    observation, info = start
    instruction = str(info["instruction"])
    if behaviour.info["behaviour"] == "second half":
        observation = env.observe()  # the first goal has been met since the reset
    achieved = _Achieved(env, watch=not config.only_successes)
    steps = _Steps(config, env)
    stillness = None
    if config.stop_if_stuck is not None:
        stillness = config.stop_if_stuck.build(env.robot_spec)
        stillness.still(observation)
    ends_at_success = env.task.ends_at_success
    left = config.after_success_steps  # counted down from the first success on
    reward = 0.0
    solved = terminated = gave_up = stuck = over = False
    while not over:
        # a step's info need not repeat the instruction
        instruction = str(info.get("instruction", instruction))
        steps.recorder.add_observation(observation, instruction)
        clean = behaviour.act(observation, reward, instruction)
        steps.ask_expert(clean, behaviour)
        executed = noise.disturb(clean) if behaviour.disturbed else clean
        observation, env_reward, terminated, truncated, info = env.step(executed)
        reward = float(env_reward)
        success = bool(info["success"])
        steps.add(executed, reward, success, behaviour)
        achieved.look(len(steps.recorder) - 1)
        solved = solved or success
        # a mistaken expert that has done what it understood ends the task: a true end, and a
        # failure
        gave_up = behaviour.acted in achieved.first
        finished = solved and ends_at_success and left == 0
        stuck = stillness is not None and stillness.still(observation)
        over = terminated or truncated or gave_up or finished or stuck
        if solved:
            left -= 1
    failure = ""
    if not solved:
        failure = str(info.get("failure") or ("stuck" if stuck else "time limit"))
    truly_over = terminated or gave_up or (solved and ends_at_success)
    return _Played(steps, achieved.first, bool(truly_over), failure)


class _Steps:
    """What is recorded of an episode's steps, and what the expert would have done in them."""

    def __init__(self, config: CollectConfig, env: SimEnv) -> None:
        self.recorder = EpisodeRecorder(list(env.robot_spec.cameras))
        self._config = config
        self._env = env
        self._labels: list[np.ndarray] = []
        self._chunks: dict[int, tuple[np.ndarray, int]] = {}
        self._followed: list[bool] = []
        self._privileged: dict[str, Any] = {}

    def ask_expert(self, clean: np.ndarray, behaviour: Behaviour) -> None:
        """Called before the step is executed, for the expert answers the present state.

        Args:
            clean: what the behaviour does, before it is disturbed.
        """
        label = clean
        self._privileged = privileged_extras(self._env)
        if self._config.labels_policies and not behaviour.by_expert:
            label = expert_label(self._env)
            length = self._config.label_chunk or 1
            if length > 1:
                self._chunks[len(self._labels)] = expert_chunk(self._env, label, length)
        self._labels.append(label)

    def add(self, executed: np.ndarray, reward: float, success: bool, behaviour: Behaviour) -> None:
        """The step that was executed, and what it brought."""
        extras = dict(self._privileged)
        if self._config.labels_policies or self._config.behaviours.corrects:
            extras[INTERVENTION] = behaviour.by_expert
        label = self._labels[-1]
        self._followed.append(bool(np.array_equal(label, executed)))
        action = executed if self._config.actions == "executed" else label
        self.recorder.add_action(action, reward, success, **extras)

    def episode(
        self, *, terminated: bool, info: dict[str, Scalar], instructions: list[str]
    ) -> Episode:
        """See `EpisodeRecorder.episode`."""
        if self._config.labels_policies:
            valid_L = valid_actions(np.array(self._followed))
            if (self._config.label_chunk or 1) > 1:
                self.recorder.extras[ACTION_CHUNK] = self._label_chunks(valid_L)
            self.recorder.extras[VALID_ACTIONS] = list(valid_L)
        return self.recorder.episode(terminated=terminated, info=info, instructions=instructions)

    def _label_chunks(self, valid_L: np.ndarray) -> list[np.ndarray]:
        """The labels from each step on, (K * A,); writes into `valid_L` how many are the expert's.

        Where the expert acted itself, they are those of the steps that follow.
        """
        labels_LA = np.stack(self._labels)
        L, K = len(labels_LA), self._config.label_chunk or 1
        chunks = []
        for step in range(L):
            following = labels_LA[np.minimum(step + np.arange(K), L - 1)]
            valid = min(int(valid_L[step]), L - step)
            chunk, valid_L[step] = self._chunks.get(step, (following, valid))
            chunks.append(np.asarray(chunk, np.float32).reshape(-1))
        return chunks


def _info(
    env: SimEnv,
    config: CollectConfig,
    seed: int,
    noise: Noise,
    behaviour: Behaviour,
) -> dict[str, Scalar]:
    """What is recorded of an episode beside its steps: only what can differ within the dataset."""
    info: dict[str, Scalar] = {"seed": seed, "noisy_steps": noise.noisy_steps}
    if config.noise.random_shares != (0.0,) and behaviour.disturbed:
        info["random_share"] = noise.random_share
    if env.expert_name:
        info["expert"] = env.expert_name
    if not config.behaviours.expert_alone:
        info |= behaviour.info
    return info


class _Achieved:
    """The steps after which instructions of the scene were first fulfilled, whatever was asked.

    Attributes:
        first: instruction -> step; without those that were fulfilled at the start.
    """

    def __init__(self, env: SimEnv, *, watch: bool) -> None:
        self._env = env
        self._watch = watch
        self._before = env.achieved() if watch else frozenset()
        self.first: dict[str, int] = {}

    def look(self, step: int) -> None:
        """Notes what the present state fulfils for the first time."""
        if not self._watch:
            return
        # sorted: a set has another order in every process, and the dict's order reaches the dataset
        for text in sorted(self._env.achieved() - self._before):
            self.first.setdefault(text, step)
