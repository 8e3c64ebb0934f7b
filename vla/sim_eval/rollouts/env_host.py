"""The side of a rollout where envs live: it steps and renders, in a worker or in this process.

It carries out one command at a time for each *slot* (one env): `Start` an episode, then `Act` for
every chunk of actions. The answer is `Ready` (the robot waits for an action; its picture lies in
the images), `Done` (the episode is over) or `Failed` (the env raised or broke its contract). The
scripted expert and the random baseline need no policy: their episodes run here to the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.common.machine_faults import text_of
from vla.config import UserError
from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.env_contract import EnvError
from vla.sim_eval.rollouts.env_checks import check_images
from vla.sim_eval.rollouts.episode_player import EpisodePlayer
from vla.sim_eval.rollouts.jobs import EpisodeRecord, Job


@dataclass(frozen=True)
class Start:
    """An episode begins.

    Attributes:
        past: float32 (n, A), actions to play at once: they lead an episode whose worker was lost to
            where it was.
        chunk: how many of them, at the end, the lost worker was sent last.
    """

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
    """The robot waits. state: float32 (S,); reward: sum over the last chunk of actions."""

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


class EnvHost:
    """Several envs, each in a slot, and their episodes. Envs are kept while their task stays.

    Args:
        config: builds the envs.
        images: camera -> by slot, where the picture (H, W, 3) is put before every `Ready`.
    """

    def __init__(self, config: EnvConfig, images: dict[str, Any]) -> None:
        self._config = config
        self._images = images
        self._envs: dict[int, tuple[str, SimEnv]] = {}  # slot -> task and env
        self._players: dict[int, EpisodePlayer] = {}
        self._filmed: dict[tuple[str, str], list[int]] = {}  # (task, failure) -> episodes

    def handle(self, command: Command) -> Answer:
        """Carries out a command; what the env raises or does wrong comes back as `Failed`."""
        try:
            if isinstance(command, Start):
                return self._start(command)
            return self._act(command.slot, command.actions)
        except EnvError as error:
            reason = f"the env breaks its contract (check_env looks for more)\n{error}"
            return Failed(command.slot, reason)
        except UserError as error:
            return Failed(command.slot, str(error))
        except Exception as error:
            # as text: the error itself may not survive being sent to another process
            return Failed(command.slot, f"the env raised\n{text_of(error)}")

    def _start(self, command: Start) -> Answer:
        job, slot = command.job, command.slot
        env = self._env_for(slot, job.task)
        player = EpisodePlayer(env, job)
        if job.driver != "policy":
            return self._play_baseline(slot, player)
        self._players[slot] = player
        if command.past is None:
            return self._ready(slot, player)
        # If the episode is filmed, every step is drawn again: the frames were lost with the worker.
        return self._act(slot, command.past, counted=command.chunk, look=player.filmed)

    def _env_for(self, slot: int, task: str) -> SimEnv:
        had_task, env = self._envs.get(slot, ("", None))
        if env is not None and had_task == task:
            return env
        if env is not None:
            env.close()
        env = self._config.make(task)
        self._envs[slot] = (task, env)
        return env

    def _play_baseline(self, slot: int, player: EpisodePlayer) -> Done:
        spec = player.env.robot_spec
        low = np.asarray(spec.action_low, dtype=np.float32)
        high = np.asarray(spec.action_high, dtype=np.float32)
        rng = np.random.default_rng(player.job.seed)
        while not player.over:
            if player.job.driver == "expert":
                action = player.env.expert_action()
            else:
                action = rng.uniform(low, high).astype(np.float32)
            player.step(np.clip(action, low, high), look=False)
        return self._done(slot, player)

    def _act(
        self,
        slot: int,
        actions: np.ndarray,
        *,
        counted: int | None = None,
        look: bool = False,
    ) -> Answer:
        """Executes a chunk of actions, or less if the episode ends in it.

        Args:
            counted: the last actions, whose rewards are reported; all by default.
            look: whether every step is drawn; else only the last one, which the policy sees.
        """
        player = self._players[slot]
        last = len(actions) - 1
        uncounted = 0 if counted is None else len(actions) - counted
        reward = 0.0
        for i, action in enumerate(actions):
            player.step(action, look=look or i == last)
            if i >= uncounted:
                reward += player.reward
            if player.over:
                del self._players[slot]
                return self._done(slot, player)
        return self._ready(slot, player, reward)

    def _done(self, slot: int, player: EpisodePlayer) -> Done:
        is_first = self._first_of_its_kind(player)
        was_asked_for = player.job.video is not None
        return Done(slot, player.record(keep_film=is_first or was_asked_for))

    def _first_of_its_kind(self, player: EpisodePlayer) -> bool:
        """Whether no `failure_videos` earlier episodes that failed alike have been filmed here."""
        # Which films stay is decided where all records come together. Here only those may be left
        # out that could not be chosen whatever other workers have.
        job = player.job
        if not player.failure:
            return False
        filmed = self._filmed.setdefault((job.task, player.failure), [])
        earlier = sum(episode < job.episode for episode in filmed)
        if earlier >= job.failure_videos:
            return False
        filmed.append(job.episode)
        return True

    def _ready(self, slot: int, player: EpisodePlayer, reward: float = 0.0) -> Ready:
        check_images(player.observation, self._images, player.env.robot_spec)
        for camera, images in self._images.items():
            images[slot] = player.observation["images"][camera]
        state = np.asarray(player.observation["state"], dtype=np.float32)
        return Ready(slot, state, player.instruction, reward)

    def close(self) -> None:
        """Closes all envs."""
        self._players.clear()
        for _, env in self._envs.values():
            env.close()
        self._envs.clear()
