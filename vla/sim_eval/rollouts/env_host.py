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
from vla.data import Episode
from vla.data.extras import PRIVILEGED
from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.env_contract import EnvError
from vla.sim_eval.gates.base import Proposal
from vla.sim_eval.rollouts.env_checks import check_images
from vla.sim_eval.rollouts.episode_player import EpisodePlayer
from vla.sim_eval.rollouts.episode_recorder import (
    DECISION,
    EXPERT_ACTION,
    EXPERT_CHUNK,
    EXPERT_STEPS,
    INTERVENTION,
    privileged_extras,
)
from vla.sim_eval.rollouts.expert_labels import expert_chunk, expert_label
from vla.sim_eval.rollouts.jobs import Decision, EpisodeRecord, Job
from vla.sim_eval.rollouts.takeover import Takeover


@dataclass(frozen=True)
class Start:
    """An episode begins.

    Attributes:
        past: what the policy chose so far, to be played at once: it leads an episode whose worker
            was lost to where it was.
    """

    slot: int
    job: Job
    past: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Act:
    """The policy has chosen; its actions are executed until the episode ends."""

    slot: int
    decision: Decision


@dataclass(frozen=True)
class Ready:
    """The robot waits.

    Attributes:
        state: float32 (S,).
        reward: sum over the last chunk of actions.
        executed: float32 (n, A), what was executed in place of the last chunk, if the expert acted
            or might have; else None.
        privileged: float32 (D,), what the env tells of its world; None if it tells nothing.
    """

    slot: int
    state: np.ndarray
    instruction: str
    reward: float = 0.0
    executed: np.ndarray | None = None
    privileged: np.ndarray | None = None


@dataclass(frozen=True)
class Done:
    """The episode is over. episode: its steps, if the job asks for them."""

    slot: int
    record: EpisodeRecord
    episode: Episode | None = None


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
        self._takeovers: dict[int, Takeover] = {}
        self._filmed: dict[tuple[str, str], list[int]] = {}  # (task, failure) -> episodes

    def handle(self, command: Command) -> Answer:
        """Carries out a command; what the env raises or does wrong comes back as `Failed`."""
        try:
            if isinstance(command, Start):
                return self._start(command)
            return self._act(command.slot, command.decision)
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
        self._end_takeover(slot)  # of an episode that a lost worker's has replaced
        if job.takeover is not None:
            self._takeovers[slot] = Takeover(job.takeover, env, job.seed)
        # If the episode is filmed, every step is drawn again: the frames were lost with the worker.
        answer: Answer = self._ready(slot, player)
        for decision in command.past:
            answer = self._act(slot, decision, look=player.filmed)
        return answer

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
                action = spec.to_ends(rng.uniform(low, high).astype(np.float32))
            action = np.clip(action, low, high).astype(np.float32)
            extras = {DECISION: 0} | self._labels(player, action, driver=player.job.driver)
            player.step(action, look=False, **extras)
        return self._done(slot, player)

    def _act(self, slot: int, decision: Decision, *, look: bool = False) -> Answer:
        """Executes a chunk of actions, or less if the episode ends in it or the expert takes over.

        Args:
            look: whether every step is drawn; else only the last one, which the policy sees.
        """
        player = self._players[slot]
        first = player.steps
        reward = 0.0
        executed = []
        takeover = player.job.takeover
        sees_all = takeover is not None and takeover.needs_images
        for i, chosen in enumerate(decision.actions):
            proposed = Decision(chosen, decision.uncertainty)
            action, by_expert, extras = self._chosen(slot, player, proposed)
            # the rest of a chunk is dropped where the expert acts: the policy looks again
            last = by_expert or i == len(decision.actions) - 1
            player.step(action, look=look or last or sees_all, **extras)
            executed.append(action)
            reward += player.reward
            if player.recorder is not None and not by_expert:
                player.recorder.count_decision(first)
            if player.over:
                del self._players[slot]
                self._end_takeover(slot)
                return self._done(slot, player)
            if last:
                break
        # the policy remembers what it chose; only where an expert may act is that another thing
        corrected = np.asarray(executed) if takeover is not None else None
        return self._ready(slot, player, reward, corrected)

    def _chosen(
        self, slot: int, player: EpisodePlayer, proposed: Decision
    ) -> tuple[np.ndarray, bool, dict[str, Any]]:
        """The action of this step, whether it is the expert's, and what is recorded of it.

        Args:
            proposed: by the policy, one action (A,).
        """
        extras: dict[str, Any] = {DECISION: 0}
        if not player.job.asks_expert:
            return proposed.actions, False, extras
        expert = expert_label(player.env)
        by_expert = False
        if slot in self._takeovers:
            proposal = Proposal(
                player.observation,
                proposed.actions,
                expert,
                proposed.uncertainty,
                player.instruction,
            )
            by_expert = self._takeovers[slot].expert_acts(proposal)
        extras |= {INTERVENTION: by_expert} | _expert_columns(player, expert)
        return expert if by_expert else proposed.actions, by_expert, extras

    def _labels(self, player: EpisodePlayer, action: np.ndarray, *, driver: str) -> dict[str, Any]:
        """What is recorded of a baseline's step beside it."""
        if not player.job.label:
            return {}
        by_expert = driver == "expert"
        label = action if by_expert else expert_label(player.env)
        return {INTERVENTION: by_expert} | _expert_columns(player, label)

    def _done(self, slot: int, player: EpisodePlayer) -> Done:
        is_first = self._first_of_its_kind(player)
        was_asked_for = player.job.video is not None
        record = player.record(keep_film=is_first or was_asked_for)
        return Done(slot, record, player.episode())

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

    def _ready(
        self,
        slot: int,
        player: EpisodePlayer,
        reward: float = 0.0,
        executed: np.ndarray | None = None,
    ) -> Ready:
        check_images(player.observation, self._images, player.env.robot_spec)
        for camera, images in self._images.items():
            images[slot] = player.observation["images"][camera]
        state = np.asarray(player.observation["state"], dtype=np.float32)
        privileged = privileged_extras(player.env).get(PRIVILEGED)
        return Ready(slot, state, player.instruction, reward, executed, privileged)

    def _end_takeover(self, slot: int) -> None:
        takeover = self._takeovers.pop(slot, None)
        if takeover is not None:
            takeover.close()

    def close(self) -> None:
        """Closes all envs."""
        self._players.clear()
        for slot in list(self._takeovers):
            self._end_takeover(slot)
        for _, env in self._envs.values():
            env.close()
        self._envs.clear()


def _expert_columns(player: EpisodePlayer, label: np.ndarray) -> dict[str, Any]:
    """What is recorded of the expert's answer in the present state, before anything is executed."""
    columns: dict[str, Any] = {EXPERT_ACTION: label}
    if player.job.label and player.job.label_chunk > 1:
        chunk, own = expert_chunk(player.env, label, player.job.label_chunk)
        columns |= {EXPERT_CHUNK: chunk.reshape(-1), EXPERT_STEPS: own}
    return columns
