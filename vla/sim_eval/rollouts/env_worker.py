"""The side of a rollout where envs live: it steps and renders, in a worker process or in the caller's own.

The parent sends one command at a time for each *slot* (one env): `Start` an episode, then `Act` for every
chunk of actions. The answer is `Ready` (the robot waits for an action; its picture lies in the shared
images), `Done` (the episode is over) or `Failed` (the env raised or broke its contract). The scripted expert
and the random baseline need no parent: their episodes run here to the end.
"""

from __future__ import annotations

import contextlib
import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla.common.renamed import announce_renamed
from vla.config import UserError
from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.env_contract import EnvError
from vla.sim_eval.rollouts.env_checks import check_images, checked_reset, checked_step
from vla.sim_eval.rollouts.video import VideoWriter, film_frame
from vla.types import Spec

Driver = Literal["policy", "expert", "random"]
FILM_BYTES = 8_000_000  # of memory for an episode that is filmed in case it fails


@dataclass(frozen=True)
class Job:
    """One episode to be played.

    Attributes:
        driver: what acts: the policy (in the process that called), the scripted expert, or chance.
        after_success_steps: steps to play after the first success.
        video: file for a film of every step; None films nothing.
        failure_video: file for a film of what the policy saw, should it fail; None films nothing. It is not written
            where the worker has filmed `failure_videos` earlier episodes that failed alike.
    """

    task: str
    group: str
    episode: int
    seed: int
    horizon: int
    driver: Driver = "policy"
    after_success_steps: int = 0
    video: Path | None = None
    failure_video: Path | None = None
    failure_videos: int = 1

    def __post_init__(self) -> None:
        if str(self.driver) == "parent":
            announce_renamed('Job(driver="parent")', 'Job(driver="policy")')
            object.__setattr__(self, "driver", "policy")


@dataclass(frozen=True)
class EpisodeRecord:
    """What came of one episode.

    Attributes:
        success_ever: solved at some step.
        success_at_end: solved at the last step that was played.
        steps: control steps played.
        return_: sum of rewards.
        failure: empty after a success, else how far the episode came, in the simulator's words.
        failure_step: the step at which it went wrong, as far as the simulator knows, else the last one; -1 after a success.
        video: file of the episode, relative to the folder of the results; empty where none was made.
    """

    task: str
    group: str
    episode: int
    seed: int
    instruction: str
    success_ever: bool
    success_at_end: bool
    steps: int
    return_: float
    failure: str
    video: str = ""
    failure_step: int = -1


@dataclass(frozen=True)
class Start:
    """past: float32 (n, A), actions to play at once: they lead an episode whose worker was lost to where it was. The
    last `chunk` of them are those that the lost worker was sent last."""

    slot: int
    job: Job
    past: np.ndarray | None = None
    chunk: int = 0


@dataclass(frozen=True)
class Act:
    """actions: float32 (n, A), executed one after the other until the episode ends."""

    slot: int
    actions: np.ndarray


@dataclass(frozen=True)
class Ready:
    """reward: sum of the rewards of the last chunk of actions."""

    slot: int
    state: np.ndarray
    instruction: str
    reward: float = 0.0


@dataclass(frozen=True)
class Done:
    slot: int
    record: EpisodeRecord


@dataclass(frozen=True)
class Failed:
    """reason: completes "task ..., seed ...: "."""

    slot: int
    reason: str


Command = Start | Act
Answer = Ready | Done | Failed


class EpisodePlayer:
    """One running episode on one env."""

    def __init__(self, env: SimEnv, job: Job) -> None:
        self.env, self.job = env, job
        self.steps, self.return_, self.reward, self.over = 0, 0.0, 0.0, False
        self.success, self.success_ever = False, False
        self._after_success = 0
        self._watched = job.video is not None
        self._video = _film_of(job, env.robot_spec)
        env.render_images = self._watched or job.driver == "policy"
        self.observation, self.info = checked_reset(env.reset(seed=job.seed), env.robot_spec)
        self.instruction = str(self.info["instruction"])
        self._film(self.observation)

    def step(self, action: np.ndarray, *, look: bool = True) -> None:
        """Executes one action (A,); `look`: whether an actor will see the images that follow."""
        self.env.render_images = look or self._watched
        self.observation, self.reward, ended, self.info = checked_step(
            self.env.step(action), self.env.robot_spec
        )
        self.steps += 1
        self.return_ += self.reward
        self.success = bool(self.info["success"])
        if self.success_ever:
            self._after_success += 1
        self.success_ever = self.success_ever or self.success
        satisfied = self.success_ever and self._after_success >= self.job.after_success_steps
        satisfied = satisfied and self.env.task.ends_at_success
        self.over = satisfied or ended or self.steps >= self.job.horizon
        if self.env.render_images:
            self._film(self.observation)

    def _film(self, observation: dict[str, Any]) -> None:
        if self._video is None:
            return
        check_images(observation, self.env.robot_spec.cameras, self.env.robot_spec)
        frame = film_frame(self.env, observation)
        if frame is None:
            self._video = None
        else:
            self._video.add(frame, self.steps)

    @property
    def filmed(self) -> bool:
        return self._video is not None

    @property
    def failure(self) -> str:
        """How far the episode came, in the simulator's words; empty after a success."""
        return "" if self.success_ever else str(self.info.get("failure") or "time limit")

    def record(self, *, keep_film: bool = True) -> EpisodeRecord:
        """Ends the episode; writes its film, if there is one to keep."""
        if keep_film and self._video is not None and self._video.last_step < self.steps:
            self.env.render_images = True  # it ended within a chunk: nobody has looked since
            self._film(self.env.observe())
        if keep_film and self._video is not None:  # an env without pictures has none by now
            self._video.close()
        job = self.job
        return EpisodeRecord(
            task=job.task,
            group=job.group,
            episode=job.episode,
            seed=job.seed,
            instruction=self.instruction,
            success_ever=self.success_ever,
            success_at_end=self.success,
            steps=self.steps,
            return_=self.return_,
            failure=self.failure,
            video=f"{job.video.parent.name}/{job.video.name}"
            if job.video is not None and self.filmed
            else "",
            failure_step=-1
            if self.success_ever
            else int(self.info.get("failure_step", self.steps)),
        )


def _film_of(job: Job, spec: Spec) -> VideoWriter | None:
    if job.video is not None:
        return VideoWriter(
            job.video, spec.control_hz, max_bytes=None if spec.cameras else 4 * FILM_BYTES
        )
    if (
        job.failure_video is not None and job.driver == "policy" and spec.cameras
    ):  # for the others nobody draws
        return VideoWriter(job.failure_video, spec.control_hz, max_bytes=FILM_BYTES)
    return None


class EnvHost:
    """Several envs, each in a slot, and their running episodes. Envs are kept while their task stays."""

    def __init__(self, config: EnvConfig, images: dict[str, np.ndarray]) -> None:
        """images: camera -> uint8 (slots, H, W, 3), written before every `Ready`."""
        self._config, self._images = config, images
        self._envs: dict[int, tuple[str, SimEnv]] = {}
        self._players: dict[int, EpisodePlayer] = {}
        self._filmed: dict[tuple[str, str], list[int]] = {}  # (task, failure) -> episodes

    def handle(self, command: Command) -> Answer:
        """Carries out a command; what the env raises or does wrong comes back as `Failed`."""
        try:
            return (
                self._start(command)
                if isinstance(command, Start)
                else self._act(command.slot, command.actions)
            )
        except EnvError as error:
            return Failed(
                command.slot, f"the env breaks its contract (check_env looks for more)\n{error}"
            )
        except UserError as error:
            return Failed(command.slot, str(error))
        except Exception:
            return Failed(command.slot, f"the env raised\n{traceback.format_exc()}")

    def _start(self, command: Start) -> Answer:
        job, slot = command.job, command.slot
        task, env = self._envs.get(slot, ("", None))
        if env is None or task != job.task:
            if env is not None:
                env.close()
            env = self._config.make(job.task)
            self._envs[slot] = (job.task, env)
        player = EpisodePlayer(env, job)
        if job.driver == "policy":
            self._players[slot] = player
            if command.past is None:
                return self._ready(slot, player)
            return self._act(slot, command.past, counted=command.chunk, look=True)
        low, high = (
            np.asarray(v, dtype=np.float32)
            for v in (env.robot_spec.action_low, env.robot_spec.action_high)
        )
        rng = np.random.default_rng(job.seed)
        while not player.over:
            action = (
                env.expert_action()
                if job.driver == "expert"
                else rng.uniform(low, high).astype(np.float32)
            )
            player.step(np.clip(action, low, high), look=False)
        return self._done(slot, player)

    def _act(
        self, slot: int, actions: np.ndarray, *, counted: int | None = None, look: bool = False
    ) -> Answer:
        """look: whether every step is drawn, for the film of an episode that lost its first worker. counted: the last
        actions whose rewards are told; all by default."""
        player = self._players[slot]
        look = look and player.filmed
        reward, uncounted = 0.0, 0 if counted is None else len(actions) - counted
        for i, action in enumerate(actions):
            player.step(action, look=look or i == len(actions) - 1)
            reward += player.reward if i >= uncounted else 0.0
            if player.over:
                del self._players[slot]
                return self._done(slot, player)
        return self._ready(slot, player, reward)

    def _done(self, slot: int, player: EpisodePlayer) -> Done:
        first = self._first_of_its_kind(player)
        return Done(slot, player.record(keep_film=first or player.job.video is not None))

    def _first_of_its_kind(self, player: EpisodePlayer) -> bool:
        """Whether no `failure_videos` earlier episodes that failed alike have been filmed here. Which films are kept
        in the end is decided where all records come together."""
        job = player.job
        if not player.failure:
            return False
        filmed = self._filmed.setdefault((job.task, player.failure), [])
        if sum(episode < job.episode for episode in filmed) >= job.failure_videos:
            return False
        filmed.append(job.episode)
        return True

    def _ready(self, slot: int, player: EpisodePlayer, reward: float = 0.0) -> Ready:
        check_images(player.observation, self._images, player.env.robot_spec)
        for camera, images in self._images.items():
            images[slot] = player.observation["images"][camera]
        return Ready(
            slot,
            np.asarray(player.observation["state"], dtype=np.float32),
            player.instruction,
            reward,
        )

    def close(self) -> None:
        self._players.clear()
        for _, env in self._envs.values():
            env.close()
        self._envs.clear()


def shared_views(config: EnvConfig, buffers: dict[str, Any], slots: int) -> dict[str, np.ndarray]:
    """camera -> uint8 (slots, H, W, 3) over memory that several processes share."""
    sizes = config.spec().cameras
    return {
        camera: np.frombuffer(buffer, dtype=np.uint8).reshape(slots, *sizes[camera], 3)
        for camera, buffer in buffers.items()
    }


def worker_main(pipe: Connection, config: EnvConfig, buffers: dict[str, Any], slots: int) -> None:
    """Body of a worker process: answers commands until the parent closes the pipe or dies."""
    import torch

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which then ends its workers
    torch.set_num_threads(1)
    host = EnvHost(config, shared_views(config, buffers, slots))
    # The parent may close the pipe, or die, while an answer is on its way.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(None)  # up and running
        while (command := pipe.recv()) is not None:
            pipe.send(host.handle(command))
    host.close()
