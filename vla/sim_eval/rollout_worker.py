"""The side of a rollout where envs live: it steps and renders, in a worker process or in the caller's own.

The parent sends one command at a time for each *slot* (one env): `Start` an episode, then `Act` for every
chunk of actions. The answer is `Ready` (the robot waits for an action; its picture lies in the shared
images), `Done` (the episode is over) or `Failed` (the env raised). The scripted expert and the random
baseline need no parent: their episodes run here to the end.
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

from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.video import VideoWriter

Driver = Literal["parent", "expert", "random"]


@dataclass(frozen=True)
class Job:
    """One episode to be played."""

    task: str
    group: str
    episode: int
    seed: int
    horizon: int
    driver: Driver = "parent"
    after_success_steps: int = 0
    video: Path | None = None


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
    slot: int
    job: Job


@dataclass(frozen=True)
class Act:
    """actions: float32 (n, A), executed one after the other until the episode ends."""

    slot: int
    actions: np.ndarray


@dataclass(frozen=True)
class Ready:
    slot: int
    state: np.ndarray
    instruction: str


@dataclass(frozen=True)
class Done:
    slot: int
    record: EpisodeRecord


@dataclass(frozen=True)
class Failed:
    slot: int
    traceback: str


Command = Start | Act
Answer = Ready | Done | Failed


class EpisodePlayer:
    """One running episode on one env."""

    def __init__(self, env: SimEnv, job: Job) -> None:
        self.env, self.job = env, job
        self.steps, self.return_, self.over = 0, 0.0, False
        self.success, self.success_ever = False, False
        self._after_success = 0
        self._watched = job.video is not None
        self._video = VideoWriter(job.video, fps=env.spec_.control_hz) if job.video is not None else None
        env.render_images = self._watched or job.driver == "parent"
        self.observation, self.info = env.reset(seed=job.seed)
        self.instruction = str(self.info["instruction"])
        self._film()

    def step(self, action: np.ndarray, *, look: bool = True) -> None:
        """Executes one action (A,); `look`: whether an actor will see the images that follow."""
        self.env.render_images = look or self._watched
        self.observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.steps += 1
        self.return_ += float(reward)
        self.success = bool(self.info["success"])
        if self.success_ever:
            self._after_success += 1
        self.success_ever = self.success_ever or self.success
        satisfied = self.success_ever and self._after_success >= self.job.after_success_steps
        self.over = satisfied or bool(terminated or truncated) or self.steps >= self.job.horizon
        self._film()

    def _film(self) -> None:
        if self._video is not None:
            self._video.add(np.concatenate(list(self.observation["images"].values()), axis=1))

    def record(self) -> EpisodeRecord:
        """Ends the episode."""
        if self._video is not None:
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
            failure="" if self.success_ever else str(self.info.get("failure") or "time limit"),
            video=f"{job.video.parent.name}/{job.video.name}" if job.video is not None else "",
            failure_step=-1 if self.success_ever else int(self.info.get("failure_step", self.steps)),
        )


class EnvHost:
    """Several envs, each in a slot, and their running episodes. Envs are kept while their task stays."""

    def __init__(self, config: EnvConfig, images: dict[str, np.ndarray]) -> None:
        """images: camera -> uint8 (slots, H, W, 3), written before every `Ready`."""
        self._config, self._images = config, images
        self._envs: dict[int, tuple[str, SimEnv]] = {}
        self._players: dict[int, EpisodePlayer] = {}

    def handle(self, command: Command) -> Answer:
        """Carries out a command; what the env raises comes back as `Failed`."""
        try:
            return self._start(command) if isinstance(command, Start) else self._act(command)
        except Exception:
            return Failed(command.slot, traceback.format_exc())

    def _start(self, command: Start) -> Answer:
        job, slot = command.job, command.slot
        task, env = self._envs.get(slot, ("", None))
        if env is None or task != job.task:
            if env is not None:
                env.close()
            env = self._config.make(job.task)
            self._envs[slot] = (job.task, env)
        player = EpisodePlayer(env, job)
        if job.driver == "parent":
            self._players[slot] = player
            return self._ready(slot, player)
        low, high = (np.asarray(v, dtype=np.float32) for v in (env.spec_.action_low, env.spec_.action_high))
        rng = np.random.default_rng(job.seed)
        while not player.over:
            action = env.expert_action() if job.driver == "expert" else rng.uniform(low, high).astype(np.float32)
            player.step(np.clip(action, low, high), look=False)
        return Done(slot, player.record())

    def _act(self, command: Act) -> Answer:
        player = self._players[command.slot]
        for i, action in enumerate(command.actions):
            player.step(action, look=i == len(command.actions) - 1)
            if player.over:
                del self._players[command.slot]
                return Done(command.slot, player.record())
        return self._ready(command.slot, player)

    def _ready(self, slot: int, player: EpisodePlayer) -> Ready:
        for camera, images in self._images.items():
            images[slot] = player.observation["images"][camera]
        return Ready(slot, np.asarray(player.observation["state"], dtype=np.float32), player.instruction)

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

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    torch.set_num_threads(1)
    host = EnvHost(config, shared_views(config, buffers, slots))
    # The parent may close the pipe, or die, while an answer is on its way.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(None)  # up and running
        while (command := pipe.recv()) is not None:
            pipe.send(host.handle(command))
    host.close()
